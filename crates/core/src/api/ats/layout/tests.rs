//! Each message by hand: what its bits mean, and which are refused.

mod properties;

use super::*;
use crate::api::ats::RequestId;
use crate::types::ids::{Generation, Pasid};

/// Bits 11:0 of an entry.
const R: u64 = 1;
const W: u64 = 1 << 1;
const U: u64 = 1 << 2;
const EXE: u64 = 1 << 3;
const PRIV: u64 = 1 << 4;
const GLOBAL: u64 = 1 << 5;
const N: u64 = 1 << 10;

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).expect("1..=0xf_ffff")
}

fn itag(value: u8) -> Itag {
    Itag::new(value).expect("0..=31")
}

fn range(first: u64, bits: u8) -> AlignedRange {
    AlignedRange::new(first, bits).expect("aligned")
}

/// A request with all flags.
fn full_request(address: u64) -> TranslationRequest {
    TranslationRequest {
        id: RequestId(7),
        pasid: Some(pasid(5)),
        address,
        write: true,
        execute: true,
        privileged: true,
    }
}

/// A request with no flag and no PASID.
fn plain_request(address: u64) -> TranslationRequest {
    TranslationRequest {
        pasid: None,
        write: false,
        execute: false,
        privileged: false,
        ..full_request(address)
    }
}

fn entry(bits: u64) -> CompletionTlp {
    CompletionTlp::Data(CompletionEntry::from_bits(bits))
}

fn invalidate(bits: u64) -> InvalidateTlp {
    InvalidateTlp {
        prefix: Some(PasidPrefix::of(pasid(5))),
        itag: 3,
        body: InvalidateBody::from_bits(bits),
    }
}

/// By section 10.2.3.2: ranges, each with the word that has S and the address alone.
const SIZES: [(u64, u8, u64); 11] = [
    (0x1000, 12, 0x1000),
    (0x2000, 13, 0x2800),
    (0x4000, 14, 0x5800),
    // The specification's own example of an overlap (section 10.3.7).
    (0x1000_0000_0000, 14, 0x1000_0000_1800),
    (0x1_0000, 16, 0x1_7800),
    (0x20_0000, 21, 0x2f_f800),
    (0x4000_0000, 30, 0x5fff_f800),
    (0x1_0000_0000, 32, 0x1_7fff_f800),
    (0, 63, 0x3fff_ffff_ffff_f800),
    (1 << 63, 63, 0xbfff_ffff_ffff_f800),
    (0, 64, 0x7fff_ffff_ffff_f800),
];

fn permissions(read: bool, write: bool, execute: bool) -> Permissions {
    let mut permissions = Permissions::empty();
    permissions.set(Permissions::READ, read);
    permissions.set(Permissions::WRITE, write);
    permissions.set(Permissions::EXECUTE, execute);
    permissions
}

// shows T4
#[test]
fn an_invalidation_names_exactly_the_requested_range() {
    for (first, bits, word) in SIZES {
        let request = InvalidationRequest {
            tag: itag(3),
            serial: 9,
            pasid: Some(pasid(5)),
            global: false,
            range: range(first, bits),
        };
        assert_eq!(InvalidateTlp::encode(&request), Ok(invalidate(word)), "{request:?}");
        assert_eq!(invalidate(word).decode(9), Ok(request), "{word:#x}");
    }
}

// shows T4: an entry that were decoded smaller than it is would outlive an invalidation of its
// other pages
#[test]
fn a_translation_is_for_the_range_that_its_size_bits_encode() {
    for (first, bits, word) in SIZES {
        let request = plain_request(range(first, bits).last());
        let permissions = Permissions::READ_WRITE;
        let result = Translation {
            range: range(first, bits),
            frame: Some(Frame(first)),
            permissions,
            global: false,
        };
        let completion = TranslationCompletion {
            id: RequestId(7),
            result: Ok(result),
            privileged: request.privileged,
            owner: None,
        };
        assert_eq!(
            CompletionTlp::encode(&completion, &request),
            Ok(entry(word | R | W)),
            "{result:?}"
        );
        assert_eq!(entry(word | R | W).decode(&request, None), Ok(completion), "{word:#x}");
    }
}

// shows S2
#[test]
fn size_bits_that_encode_no_range_are_refused() {
    let all_ones = !0 << 11;
    assert_eq!(invalidate(all_ones).decode(0), Err(DecodeError::NoRange));
    assert_eq!(entry(all_ones).decode(&plain_request(0), None), Err(DecodeError::NoRange));
    assert!(invalidate(all_ones ^ 1 << 11).decode(0).is_ok(), "without S it is the last page");
}

// shows S2
#[test]
fn reserved_bits_of_each_message_are_refused_one_by_one() {
    for bit in 6..=9 {
        assert_eq!(
            entry(R | 1 << bit).decode(&plain_request(0), None),
            Err(DecodeError::Reserved { bits: 1 << bit })
        );
    }
    for bit in 1..=10 {
        assert_eq!(invalidate(1 << bit).decode(0), Err(DecodeError::Reserved { bits: 1 << bit }));
    }
    for bit in 35..=47 {
        assert_eq!(
            InvalidateDone::from_bits(1 | 1 << bit).decode(),
            Err(DecodeError::Reserved { bits: 1 << bit })
        );
    }
    for bit in [20, 21] {
        let prefix = PasidPrefix::from_bits(0x9100_0005 | 1 << bit);
        assert_eq!(prefix.checked(), Err(PrefixError::Reserved { bits: 1 << bit }));
    }
    for bit in [22, 23] {
        let prefix = PasidPrefix::from_bits(0x9100_0005 | 1 << bit);
        assert_eq!(
            (prefix.checked(), prefix.checked_without_flags()),
            (Ok(pasid(5)), Err(PrefixError::Reserved { bits: 1 << bit }))
        );
        let request = InvalidateTlp { prefix: Some(prefix), ..invalidate(0) };
        assert_eq!(request.decode(0), Err(PrefixError::Reserved { bits: 1 << bit }.into()));
    }
}

// shows S2
#[test]
fn a_prefix_of_another_type_or_with_pasid_0_is_refused() {
    assert_eq!(PasidPrefix::of(pasid(0xf_ffff)).into_bits(), 0x910f_ffff);
    assert_eq!(
        PasidPrefix::from_bits(0x9000_0005).checked(),
        Err(PrefixError::Kind { kind: 0x90 })
    );
    assert_eq!(PasidPrefix::from_bits(0x9100_0000).checked(), Err(PrefixError::Zero));
}

// shows S2, T1: a completion grants nothing that was not requested
#[test]
fn a_completion_that_does_not_match_its_request_is_refused() {
    let refused = |bits, request: TranslationRequest| {
        entry(bits).decode(&request, None).expect_err("does not fit")
    };
    let all = full_request(0);
    assert_eq!(refused(W | EXE | PRIV, all), DecodeError::ExecuteWithoutRead);
    assert_eq!(
        refused(R | EXE | PRIV, TranslationRequest { execute: false, ..all }),
        DecodeError::ExecuteNotRequested
    );
    assert_eq!(refused(R, all), DecodeError::Privilege { requested: true, answered: false });
    assert_eq!(
        refused(R | PRIV, TranslationRequest { privileged: false, ..all }),
        DecodeError::Privilege { requested: false, answered: true }
    );
    assert_eq!(
        refused(R | PRIV, TranslationRequest { pasid: None, ..all }),
        DecodeError::PrivilegedWithoutPasid
    );
    assert_eq!(refused(R | GLOBAL, plain_request(0)), DecodeError::GlobalWithoutPasid);
}

#[test]
fn each_bit_of_an_entry_is_decoded_as_specified() {
    let decoded = |bits, request: &TranslationRequest| {
        let completion = entry(bits).decode(request, None).expect("has a meaning");
        completion.result.map(|t| (t.frame, t.permissions, t.global))
    };
    let permits = permissions;
    let (plain, all, to) = (plain_request(0), full_request(0), Some(Frame(0x6000)));
    assert_eq!(decoded(0x6000 | R, &plain), Ok((to, permits(true, false, false), false)));
    assert_eq!(decoded(0x6000 | W | N, &plain), Ok((to, permits(false, true, false), false)));
    assert_eq!(decoded(0x6000 | R | U, &plain), Ok((None, permits(true, false, false), false)));
    assert_eq!(
        decoded(0x6000 | R | EXE | PRIV | GLOBAL, &all),
        Ok((to, permits(true, false, true), true))
    );
    // With neither R nor W the other bits are ignored.
    assert_eq!(
        decoded(0x6000 | U | EXE | GLOBAL | N, &plain),
        Ok((None, Permissions::empty(), false))
    );
}

#[test]
fn a_completion_is_encoded_without_bits_that_its_request_does_not_allow() {
    let everything = Permissions::all();
    let word = |permissions, frame, request: &TranslationRequest| {
        let translation =
            Translation { range: range(0x6000, 13), frame, permissions, global: true };
        let completion = TranslationCompletion {
            id: request.id,
            result: Ok(translation),
            privileged: request.privileged,
            owner: None,
        };
        CompletionTlp::encode(&completion, request)
    };
    let (plain, all, to) = (plain_request(0x7000), full_request(0x7000), Some(Frame(0x2000)));
    assert_eq!(word(everything, to, &plain), Ok(entry(0x2800 | R | W)));
    assert_eq!(word(everything, to, &all), Ok(entry(0x2800 | R | W | EXE | PRIV | GLOBAL)));
    assert_eq!(word(everything, None, &plain), Ok(entry(0x800 | R | W | U)));
    assert_eq!(
        word(Permissions::EXECUTE, to, &all),
        Ok(entry(0x800)),
        "no execution without reading"
    );
    assert_eq!(
        word(everything - Permissions::READ, to, &all),
        Ok(entry(0x2800 | W | PRIV | GLOBAL)),
        "nor with writing alone"
    );
    assert_eq!(
        word(everything, Some(Frame(0x1000)), &all),
        Err(EncodeError::Misaligned { frame: Frame(0x1000), bits: 13 })
    );
    let elsewhere = TranslationRequest { address: 0x8000, ..plain };
    assert_eq!(
        word(everything, to, &elsewhere),
        Err(EncodeError::OtherAddress { address: 0x8000 })
    );
    let bare = TranslationRequest { privileged: true, ..plain };
    assert_eq!(word(everything, to, &bare), Err(EncodeError::PrivilegedWithoutPasid));
}

// shows S2
#[test]
fn every_completion_status_is_a_refusal_or_an_error() {
    use TranslationRefusal::{Aborted, Unsupported};
    for (status, refusal) in [
        (1, Unsupported),
        (3, Unsupported),
        (4, Aborted),
        (5, Unsupported),
        (6, Unsupported),
        (7, Unsupported),
    ] {
        let completion =
            CompletionTlp::NoData(status).decode(&full_request(0), None).expect("has a meaning");
        assert_eq!(completion.result, Err(refusal), "{status}");
        let again = CompletionTlp::encode(&completion, &full_request(0))
            .map(|tlp| tlp.decode(&full_request(0), None));
        assert_eq!(again, Ok(Ok(completion)), "{status}");
    }
    for status in [0, 2].into_iter().chain(8..=u8::MAX) {
        assert_eq!(
            CompletionTlp::NoData(status).decode(&full_request(0), None),
            Err(DecodeError::Status { status })
        );
    }
}

// shows S2
#[test]
fn an_invalidation_with_a_tag_out_of_range_or_global_for_no_pasid_is_refused() {
    assert_eq!(
        InvalidateTlp { itag: 32, ..invalidate(0) }.decode(0),
        Err(DecodeError::Itag { itag: 32 })
    );
    assert_eq!(
        InvalidateTlp { prefix: None, ..invalidate(1) }.decode(0),
        Err(DecodeError::GlobalWithoutPasid)
    );
    let request = invalidate(1).decode(0).expect("global for a PASID");
    assert!(request.global);
    assert_eq!(
        InvalidateTlp::encode(&InvalidationRequest { pasid: None, ..request }),
        Err(EncodeError::GlobalWithoutPasid)
    );
}

#[test]
fn a_completion_has_one_bit_for_each_tag_and_encodes_a_count_of_eight_as_zero() {
    let completed = CompletedTags::new([itag(0), itag(31), itag(0)], 8).expect("two tags");
    let word = InvalidateDone::encode(completed);
    assert_eq!(word.into_bits(), 0x8000_0001);
    assert_eq!(word.with_destination(0x1234).decode(), Ok(completed));
    let serials: Vec<_> = completed
        .completions(|tag| 100 + u64::from(tag.get()))
        .map(|done| (done.tag.get(), done.serial))
        .collect();
    assert_eq!(serials, [(0, 100), (31, 131)]);
    assert_eq!(
        InvalidateDone::encode(CompletedTags::new([itag(4)], 3).expect("one tag")).into_bits(),
        0x3_0000_0010
    );
    // Neither these values nor such bits are accepted.
    assert_eq!(
        [
            CompletedTags::new([], 1),
            CompletedTags::new([itag(0)], 0),
            CompletedTags::new([itag(0)], 9)
        ],
        [None; 3]
    );
    assert_eq!(InvalidateDone::from_bits(1 << 32).decode(), Err(DecodeError::NoItag));
}
