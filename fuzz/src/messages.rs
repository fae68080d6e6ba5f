//! Messages of a link: what decodes encodes to something that decodes to the same.

use sva_core::Pasid;
use sva_core::ats::layout::{
    CompletionEntry, CompletionTlp, InvalidateBody, InvalidateDone, InvalidateTlp, PasidPrefix,
};
use sva_core::ats::{RequestId, TranslationRequest};
use sva_core::pri::layout::{PageRequestTlp, PageRequestWord, PageResponseTlp, PageResponseWord};

/// Takes numbers off the front; zeros where the bytes end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let n = N.min(self.0.len());
        taken[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        taken
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn prefix(&mut self) -> Option<PasidPrefix> {
        let bits = u32::from_le_bytes(self.take());
        (bits != 0).then(|| PasidPrefix::from_bits(bits))
    }
}

/// A translation completion, an invalidate request, an invalidate completion.
///
/// # Panics
/// A message means something else when it has been written again.
pub fn ats(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (flags, address, word) = (bytes.u8(), bytes.u64(), bytes.u64());
    let request = TranslationRequest {
        id: RequestId(1),
        pasid: Pasid::new(u32::from(flags >> 4)),
        address,
        write: flags & 1 != 0,
        execute: flags & 2 != 0,
        privileged: flags & 4 != 0,
    };
    let completion = if flags & 8 == 0 {
        CompletionTlp::Data(CompletionEntry::from_bits(word))
    } else {
        CompletionTlp::NoData(word as u8)
    };
    if let Ok(message) = completion.decode(&request, None)
        && let Ok(again) = CompletionTlp::encode(&message, &request)
    {
        assert_eq!(again.decode(&request, None), Ok(message));
    }
    let invalidate = InvalidateTlp {
        prefix: bytes.prefix(),
        itag: bytes.u8(),
        body: InvalidateBody::from_bits(word),
    };
    if let Ok(message) = invalidate.decode(7) {
        assert_eq!(InvalidateTlp::encode(&message), Ok(invalidate));
    }
    let done = InvalidateDone::from_bits(word);
    if let Ok(tags) = done.decode() {
        assert_eq!(InvalidateDone::encode(tags).decode(), Ok(tags));
        assert!(tags.completions(|_| 0).count() <= 32);
    }
}

/// A page request or stop marker, and a page request group response.
///
/// # Panics
/// A message means something else when it has been written again.
pub fn page_request(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (prefix, word) = (bytes.prefix(), bytes.u64());
    let request = PageRequestTlp { prefix, word: PageRequestWord::from_bits(word) };
    if let Ok(message) = request.decode() {
        assert_eq!(PageRequestTlp::encode(&message), Ok(request));
    }
    let response = PageResponseTlp { prefix, word: PageResponseWord::from_bits(word) };
    if let Ok(message) = response.decode() {
        assert_eq!(PageResponseTlp::encode(&message).decode(), Ok(message));
    }
}
