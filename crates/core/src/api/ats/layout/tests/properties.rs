//! Random messages and random bits: what is encoded is decoded again, and the other way round.

use proptest::prelude::*;

use super::*;

/// Any aligned range.
fn ranges() -> impl Strategy<Value = AlignedRange> {
    (any::<u64>(), 12..=64_u8)
        .prop_map(|(address, bits)| range_around(address, bits).expect("12..=64"))
}

fn pasids() -> impl Strategy<Value = Pasid> {
    (1..=Pasid::LAST).prop_map(pasid)
}

fn requests() -> impl Strategy<Value = TranslationRequest> {
    (proptest::option::of(pasids()), any::<(u64, bool, bool, bool)>()).prop_map(
        |(pasid, (address, write, execute, privileged))| TranslationRequest {
            id: RequestId(1),
            pasid,
            address,
            write,
            execute,
            privileged: privileged && pasid.is_some(),
        },
    )
}

/// Any words, and words without reserved bits.
fn words(reserved: u64) -> impl Strategy<Value = u64> {
    any::<(u64, bool)>().prop_map(move |(word, clean)| if clean { word & !reserved } else { word })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    // shows T4
    #[test]
    fn every_invalidation_is_decoded_from_its_bits(
        tag in 0..32_u8,
        serial: u64,
        pasid in proptest::option::of(pasids()),
        global: bool,
        range in ranges(),
    ) {
        let global = global && pasid.is_some();
        let request = InvalidationRequest { tag: itag(tag), serial, pasid, global, range };
        let tlp = InvalidateTlp::encode(&request).expect("has bits");
        prop_assert_eq!(tlp.decode(serial), Ok(request));
    }

    #[test]
    fn every_translation_is_decoded_from_its_bits(
        request in requests(),
        bits in 12..=64_u8,
        frame in proptest::option::of(any::<u64>()),
        flags: [bool; 4],
    ) {
        let [read, write, execute, global] = flags;
        let permissions = permissions(read, write, execute && read && request.execute);
        let frames = frame.filter(|_| read || write).and_then(|at| range_around(at, bits));
        let frame = frames.map(|frames| Frame(frames.first()));
        let global = global && (read || write) && request.pasid.is_some();
        let range = range_around(request.address, bits).expect("12..=64");
        let owner = request.pasid.map(|pasid| PasidTag { pasid, generation: Generation(3) });
        let result = Ok(Translation { range, frame, permissions, global });
        let privileged = request.privileged;
        let completion = TranslationCompletion { id: request.id, result, privileged, owner };
        let tlp = CompletionTlp::encode(&completion, &request).expect("has bits");
        prop_assert_eq!(tlp.decode(&request, owner), Ok(completion));
    }

    // shows S2
    #[test]
    fn any_invalidation_bits_are_an_error_or_a_request_with_exactly_these_bits(
        prefix: Option<u32>,
        is_valid: bool,
        itag in 0..40_u8,
        word in words(0x7fe),
    ) {
        let validate = |bits| if is_valid { bits & 0xf_ffff | 0x9100_0000 } else { bits };
        let prefix = prefix.map(|bits| PasidPrefix::from_bits(validate(bits)));
        let tlp = InvalidateTlp { prefix, itag, body: InvalidateBody::from_bits(word) };
        if let Ok(request) = tlp.decode(1) {
            prop_assert_eq!(InvalidateTlp::encode(&request), Ok(tlp));
        }
    }

    // shows S2
    #[test]
    fn any_entry_bits_are_an_error_or_a_translation_that_encodes_to_the_same_meaning(
        request in requests(),
        word in words(0x3c0),
    ) {
        if let Ok(completion) = entry(word).decode(&request, None) {
            let encoded = CompletionTlp::encode(&completion, &request);
            let Ok(CompletionTlp::Data(again)) = encoded else {
                panic!("{completion:?} cannot be encoded")
            };
            prop_assert_eq!(CompletionTlp::Data(again).decode(&request, None), Ok(completion));
            // If there is a frame, all bits but N are the same.
            if completion.result.is_ok_and(|translation| translation.frame.is_some()) {
                prop_assert_eq!(again.into_bits(), word & !N);
            }
        }
    }

    // shows S2
    #[test]
    fn any_completion_bits_are_an_error_or_tags_with_exactly_these_bits(
        word in words(0x1fff << 35),
    ) {
        let done = InvalidateDone::from_bits(word);
        if let Ok(completed) = done.decode() {
            let again = InvalidateDone::encode(completed).with_destination(done.destination());
            prop_assert_eq!(again, done);
        }
    }
}
