use proptest::prelude::*;

use super::*;
use crate::types::ids::Pasid;

fn pasid(value: u32) -> Pasid {
    Pasid::new(value).expect("1..=0xf_ffff")
}

fn index(value: u16) -> PrgIndex {
    PrgIndex::new(value).expect("0..=511")
}

/// A message with PASID 5.
fn with_pasid(word: u64) -> PageRequestTlp {
    PageRequestTlp {
        prefix: Some(PasidPrefix::of(pasid(5))),
        word: PageRequestWord::from_bits(word),
    }
}

fn without_pasid(word: u64) -> PageRequestTlp {
    PageRequestTlp { prefix: None, ..with_pasid(word) }
}

fn response(word: u64) -> PageResponseTlp {
    PageResponseTlp { prefix: None, word: PageResponseWord::from_bits(word) }
}

fn request() -> PageRequest {
    PageRequest {
        pasid: Some(pasid(5)),
        address: 0x7fff_1234_5000,
        read: true,
        write: false,
        execute: false,
        privileged: false,
        index: index(0),
        last: false,
    }
}

// shows F1
#[test]
fn each_field_of_a_page_request_is_at_its_specified_position() {
    let base = request();
    let table = [
        (base, 0x9100_0005, 0x7fff_1234_5001),
        (PageRequest { write: true, ..base }, 0x9100_0005, 0x7fff_1234_5003),
        (
            PageRequest { read: false, write: true, last: true, ..base },
            0x9100_0005,
            0x7fff_1234_5006,
        ),
        (PageRequest { index: index(511), ..base }, 0x9100_0005, 0x7fff_1234_5ff9),
        (PageRequest { index: index(256), last: true, ..base }, 0x9100_0005, 0x7fff_1234_5805),
        (PageRequest { execute: true, ..base }, 0x9140_0005, 0x7fff_1234_5001),
        (PageRequest { privileged: true, ..base }, 0x9180_0005, 0x7fff_1234_5001),
        (PageRequest { address: !0xfff, ..base }, 0x9100_0005, 0xffff_ffff_ffff_f001),
    ];
    for (request, prefix, word) in table {
        let tlp = PageRequestTlp {
            prefix: Some(PasidPrefix::from_bits(prefix)),
            word: PageRequestWord::from_bits(word),
        };
        assert_eq!(PageRequestTlp::encode(&PageMessage::Request(request)), Ok(tlp), "{request:?}");
        assert_eq!(tlp.decode(), Ok(PageMessage::Request(request)), "{word:#x}");
    }
}

// shows F3
#[test]
fn a_stop_marker_has_its_specified_bits_and_a_pasid_and_awaits_no_answer() {
    let marker = PageMessage::Stop(StopMarker { pasid: pasid(5) });
    assert_eq!(PageRequestTlp::encode(&marker), Ok(with_pasid(0b100)));
    assert_eq!(with_pasid(0b100).decode(), Ok(marker));
    for word in 0..=0b111 {
        let word = PageRequestWord::from_bits(word);
        assert_eq!(
            (word.is_marker(), word.awaits_answer()),
            (word.into_bits() == 0b100, word.into_bits() > 0b100)
        );
    }
}

// shows S2
#[test]
fn a_marker_of_another_type_or_of_no_pasid_or_with_reserved_bits_is_refused() {
    assert_eq!(without_pasid(0b100).decode(), Err(DecodeError::MarkerWithoutPasid));
    for kind in 1..=31_u8 {
        assert_eq!(
            with_pasid(0b100 | u64::from(kind) << 3).decode(),
            Err(DecodeError::Marker { kind })
        );
    }
    for bit in 8..64 {
        assert_eq!(
            with_pasid(0b100 | 1 << bit).decode(),
            Err(DecodeError::Reserved { bits: 1 << bit })
        );
    }
    for flag in [1 << 22, 1 << 23] {
        let prefix = Some(PasidPrefix::from_bits(0x9100_0005 | flag));
        let tlp = PageRequestTlp { prefix, ..with_pasid(0b100) };
        assert_eq!(tlp.decode(), Err(PrefixError::Reserved { bits: flag }.into()));
    }
}

// shows S2
#[test]
fn a_page_request_for_nothing_or_to_execute_without_reading_or_with_a_bad_prefix_is_refused() {
    let index = index(3);
    assert_eq!(with_pasid(3 << 3).decode(), Err(DecodeError::NoAccess { index }));
    let to_execute = |word| PageRequestTlp {
        prefix: Some(PasidPrefix::of(pasid(5)).with_execute(true)),
        ..with_pasid(word)
    };
    assert_eq!(to_execute(3 << 3 | 0b110).decode(), Err(DecodeError::ExecuteWithoutRead { index }));
    assert!(
        to_execute(3 << 3 | 0b110).word.awaits_answer(),
        "refused, and still awaits a response"
    );
    let bad = PageRequestTlp { prefix: Some(PasidPrefix::from_bits(0x9100_0000)), ..with_pasid(1) };
    assert_eq!(bad.decode(), Err(PrefixError::Zero.into()));
}

#[test]
fn a_page_request_that_cannot_be_encoded_is_refused_with_the_reason() {
    let encode = |request| PageRequestTlp::encode(&PageMessage::Request(request));
    let base = request();
    assert_eq!(
        encode(PageRequest { address: 0x5004, ..base }),
        Err(EncodeError::Misaligned { address: 0x5004 })
    );
    assert_eq!(encode(PageRequest { read: false, ..base }), Err(EncodeError::NoAccess));
    assert_eq!(
        encode(PageRequest { read: false, execute: true, ..base }),
        Err(EncodeError::ExecuteWithoutRead)
    );
    for flags in [PageRequest { execute: true, ..base }, PageRequest { privileged: true, ..base }] {
        assert_eq!(
            encode(PageRequest { pasid: None, ..flags }),
            Err(EncodeError::FlagsWithoutPasid)
        );
    }
}

// shows F2
#[test]
fn a_response_carries_its_code_and_unused_codes_are_failures() {
    use ResponseCode::{InvalidRequest, ResponseFailure, Success};
    for (code, word) in [
        (Success, 0x1ff_0000_0000),
        (InvalidRequest, 0x11ff_0000_0000),
        (ResponseFailure, 0xf1ff_0000_0000),
    ] {
        let answer = PageResponse { pasid: None, index: index(511), code };
        assert_eq!(PageResponseTlp::encode(&answer), response(word));
        assert_eq!(
            response(word | 0xabcd << 48).decode(),
            Ok(answer),
            "the destination is ignored"
        );
    }
    for code in 2..=15_u64 {
        assert_eq!(
            response(code << 44).decode().map(|answer| answer.code),
            Ok(ResponseFailure),
            "{code:#b}"
        );
    }
}

// shows S2
#[test]
fn a_response_with_reserved_bits_is_refused() {
    for bit in (0..32).chain(41..44) {
        assert_eq!(response(1 << bit).decode(), Err(DecodeError::Reserved { bits: 1 << bit }));
    }
    let prefix = Some(PasidPrefix::of(pasid(5)).with_execute(true));
    assert_eq!(
        PageResponseTlp { prefix, ..response(0) }.decode(),
        Err(PrefixError::Reserved { bits: 1 << 22 }.into())
    );
}

fn prefixes() -> impl Strategy<Value = Option<PasidPrefix>> {
    let good = any::<u32>().prop_map(|bits| bits & 0xcf_ffff | 0x9100_0000);
    proptest::option::of(prop_oneof![any::<u32>(), good].prop_map(PasidPrefix::from_bits))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    // shows F1
    #[test]
    fn every_page_request_is_decoded_from_its_bits(
        number in proptest::option::of(1..=Pasid::LAST),
        page in 0..1_u64 << 52,
        group in 0..512_u16,
        flags: [bool; 4],
        access in 1..=3_u8,
    ) {
        let [execute, privileged, last, _] = flags;
        let (read, write) = (access & 1 != 0, access & 2 != 0);
        let has_pasid = number.is_some();
        let request = PageRequest {
            pasid: number.map(pasid),
            address: page << 12,
            read,
            write,
            execute: execute && read && has_pasid,
            privileged: privileged && has_pasid,
            index: index(group),
            last,
        };
        let tlp = PageRequestTlp::encode(&PageMessage::Request(request)).expect("can be encoded");
        prop_assert_eq!(tlp.decode(), Ok(PageMessage::Request(request)));
    }

    // shows S2
    #[test]
    fn any_page_request_bits_are_an_error_or_a_message_with_exactly_these_bits(
        prefix in prefixes(),
        word: u64,
        is_short: bool,
    ) {
        let word = PageRequestWord::from_bits(if is_short { word & 0xf } else { word });
        let tlp = PageRequestTlp { prefix, word };
        if let Ok(message) = tlp.decode() {
            prop_assert_eq!(PageRequestTlp::encode(&message), Ok(tlp));
        }
    }

    // shows S2
    #[test]
    fn any_response_bits_are_an_error_or_a_response_that_encodes_to_the_same_meaning(
        prefix in prefixes(),
        word: u64,
        is_clean: bool,
    ) {
        let word = if is_clean { word & 0xffff_f1ff_0000_0000 } else { word };
        let word = PageResponseWord::from_bits(word);
        if let Ok(answer) = (PageResponseTlp { prefix, word }).decode() {
            let again = PageResponseTlp::encode(&answer);
            prop_assert_eq!(again.decode(), Ok(answer));
            let code = if (2..15).contains(&word.code()) { 15 } else { word.code() };
            let word = word.with_code(code).with_destination(0);
            prop_assert_eq!(again, PageResponseTlp { prefix, word });
        }
    }
}
