//! How messages are corrupted.

use sva_core::ats::layout::{CompletedTags, InvalidateDone};
use sva_core::ats::{InvalidationCompletion, RequestId, TranslationRefusal};
use sva_core::link::{ToDevice, ToIommu};
use sva_core::pri::PageResponse;
use sva_core::pri::layout::{PageResponseTlp, PageResponseWord};

use super::message::Message;
use crate::choices::Choices;

/// The messages that the receiver gets; none if it sees at once that this is no message.
pub(super) fn corrupted(message: Message, choices: &mut Choices) -> Vec<Message> {
    match message {
        Message::Down(ToDevice::Response(response)) => flipped_response(response, choices)
            .map(|response| Message::Down(ToDevice::Response(response)))
            .into_iter()
            .collect(),
        Message::Up(ToIommu::Invalidated(completion)) => flipped_completion(completion, choices)
            .into_iter()
            .map(|completion| Message::Up(ToIommu::Invalidated(completion)))
            .collect(),
        Message::Down(ToDevice::Translated(mut completion)) => {
            match choices.below(3) {
                0 => return Vec::new(),
                1 => completion.result = Err(TranslationRefusal::Aborted),
                _ => {
                    completion.id =
                        RequestId(completion.id.0.wrapping_sub(u64::from(choices.below(3))))
                }
            }
            vec![Message::Down(ToDevice::Translated(completion))]
        }
        other => vec![other],
    }
}

/// The first bit of the index in a response. The code ends 16 bits later.
const INDEX_AND_CODE: u32 = 32;

fn flipped_response(response: PageResponse, choices: &mut Choices) -> Option<PageResponse> {
    let tlp = PageResponseTlp::encode(&response);
    // The other bits are reserved, or route the message: a receiver refuses it or never gets it.
    let bit = INDEX_AND_CODE + choices.below(16);
    let word = PageResponseWord::from_bits(tlp.word.into_bits() ^ 1 << bit);
    PageResponseTlp { word, ..tlp }.decode().ok()
}

/// Flips a bit of the vector of tags: the completion names another tag as well, or none.
fn flipped_completion(
    completion: InvalidationCompletion,
    choices: &mut Choices,
) -> Vec<InvalidationCompletion> {
    let Some(tags) = CompletedTags::new([completion.tag], 1) else { return Vec::new() };
    let vector = InvalidateDone::encode(tags).itag_vector() ^ 1 << choices.below(32);
    match InvalidateDone::encode(tags).with_itag_vector(vector).decode() {
        Ok(tags) => tags.completions(|_| completion.serial).collect(),
        Err(_) => Vec::new(),
    }
}
