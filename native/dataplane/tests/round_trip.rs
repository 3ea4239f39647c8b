//! What is written reads back, whatever it is.

mod common;

use common::{Headers, OPTIONS, decode_with, stored};
use penstock_dataplane::compression::{Compression, Decompressors, compress};
use penstock_dataplane::encode::{BatchBuilder, Producer};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Input {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Headers,
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let bytes = || option::of(vec(any::<u8>(), 0..300));
    let timestamp = prop_oneof![
        -1_i64..i64::MAX / 2,
        1_600_000_000_000_i64..1_700_000_000_000
    ];
    let headers = vec(("[a-zä]{0,9}".prop_map(String::into_bytes), bytes()), 0..4);
    let input =
        (timestamp, bytes(), bytes(), headers).prop_map(|(timestamp, key, value, headers)| Input {
            timestamp,
            key,
            value,
            headers,
        });
    vec(input, 1..40)
}

fn built(inputs: &[Input], codec: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec, None);
    for input in inputs {
        let headers: Vec<_> = input
            .headers
            .iter()
            .map(|(key, value)| (&key[..], value.as_deref()))
            .collect();
        let size = builder
            .append(
                input.timestamp,
                input.key.as_deref(),
                input.value.as_deref(),
                &headers,
            )
            .unwrap();
        assert_eq!(size, builder.size_bytes());
    }
    assert_eq!(builder.len(), inputs.len());
    let batch = builder.build(&Producer::default()).unwrap();
    if codec == Compression::None {
        assert_eq!(batch.len(), builder.size_bytes());
    }
    assert_eq!(
        builder.build(&Producer::default()).unwrap(),
        batch,
        "the builder stays usable"
    );
    batch
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn batches(inputs in inputs(), codec in 0_usize..5, base in 0_i64..i64::MAX / 2, soft_limit in 0_usize..4000) {
        let codec = Compression::ALL[codec];
        let second = base + inputs.len() as i64;
        let batch = built(&inputs, codec);
        let record_set = [stored(batch.clone(), base), stored(batch, second)].concat();
        let (records, next) = decode_with(&record_set, base, &OPTIONS, None, soft_limit).unwrap();
        prop_assert_eq!(next, second + inputs.len() as i64);
        prop_assert_eq!(records.len(), 2 * inputs.len());
        for (index, (record, input)) in records.iter().zip(inputs.iter().chain(&inputs)).enumerate() {
            prop_assert_eq!(record.offset, base + index as i64);
            prop_assert_eq!(record.timestamp, input.timestamp);
            prop_assert_eq!(&record.key, &input.key);
            prop_assert_eq!(&record.value, &input.value);
            prop_assert_eq!(&record.headers, &input.headers);
        }
    }

    #[test]
    fn codecs(bytes in vec(any::<u8>(), 0..5000), repeat in 1_usize..50, before in 0_usize..50) {
        let data = bytes.repeat(repeat);
        let mut states = Decompressors::default();
        for codec in Compression::ALL {
            let packed = compress(codec, None, &data).unwrap();
            for _ in 0..2 {
                let mut out = vec![7; before];
                states.decompress(codec, &packed, &mut out, data.len()).unwrap();
                prop_assert_eq!(&out[..before], vec![7; before]);
                prop_assert_eq!(&out[before..], &data[..]);
            }
            if !data.is_empty() {
                let mut out = vec![7; before];
                prop_assert!(states.decompress(codec, &packed, &mut out, data.len() - 1).is_err());
            }
        }
    }
}

#[test]
fn levels_are_obeyed() {
    let words = (0_u32..20_000).map(|index| index.wrapping_mul(2_654_435_761) >> 19);
    let data: Vec<u8> = words
        .flat_map(|word| word.to_string().into_bytes())
        .collect();
    for (codec, low, high) in [(Compression::Gzip, 1, 9), (Compression::Zstd, 1, 19)] {
        let sizes = [low, high].map(|level| compress(codec, Some(level), &data).unwrap().len());
        assert!(sizes[1] < sizes[0], "{codec:?} {sizes:?}");
    }
}

#[test]
fn codecs_have_kafkas_names() {
    for codec in Compression::ALL {
        assert_eq!(Compression::of_name(codec.name()), Some(codec));
        assert_eq!(Compression::of_attributes(codec as i16), Some(codec));
    }
    assert_eq!(Compression::of_name("brotli"), None);
    assert_eq!(Compression::of_attributes(0x7f), None);
}
