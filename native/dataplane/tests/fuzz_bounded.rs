//! The bodies of the fuzz targets over a bounded number of damaged record sets, so that every test run has some of it.

#[path = "../fuzz/bodies.rs"]
mod bodies;
mod common;

use common::batch;
use penstock_dataplane::compression::{Compression, compress};
use penstock_dataplane::heartbeat;
use proptest::collection::vec;
use proptest::prelude::*;

/// One way to damage bytes.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Flip(usize, u8),
    Cut(usize),
    Repeat(usize, usize),
    Remove(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || any::<usize>();
    let byte = prop_oneof![Just(0_u8), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
    prop_oneof![
        4 => (at(), byte).prop_map(|(at, byte)| Damage::Set(at, byte)),
        4 => (at(), 0_u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => at().prop_map(Damage::Cut),
        1 => (at(), 1_usize..40).prop_map(|(at, count)| Damage::Repeat(at, count)),
        1 => (at(), 1_usize..40).prop_map(|(at, count)| Damage::Remove(at, count)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let len = bytes.len().max(1);
    match *damage {
        _ if bytes.is_empty() => {}
        Damage::Set(at, byte) => bytes[at % len] = byte,
        Damage::Flip(at, bit) => bytes[at % len] ^= 1 << bit,
        Damage::Cut(at) => bytes.truncate(at % len),
        Damage::Repeat(at, count) => {
            let start = at % len;
            let again = bytes[start..(start + count).min(len)].to_vec();
            bytes.splice(start..start, again);
        }
        Damage::Remove(at, count) => drop(bytes.drain(at % len..(at % len + count).min(len))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn record_sets(flags in 0_u8..8, soft in any::<u8>(), codec in 0_usize..5, damages in vec(damage(), 0..6)) {
        let codec = Compression::ALL[codec];
        let mut record_set = [batch(0, 20, codec), batch(20, 5, Compression::None)].concat();
        damages.iter().for_each(|damage| apply(&mut record_set, damage));
        bodies::scan(&record_set);
        bodies::decode(&[&[flags, soft], &record_set[..]].concat());
    }

    #[test]
    fn compressed_bytes(damages in vec(damage(), 0..4), data in vec(0_u8..4, 0..3000)) {
        for codec in Compression::ALL {
            let mut packed = compress(codec, None, &data).unwrap();
            damages.iter().for_each(|damage| apply(&mut packed, damage));
            match codec {
                Compression::None => {}
                Compression::Gzip => bodies::gzip(&packed),
                Compression::Snappy => bodies::snappy(&packed),
                Compression::Lz4 => bodies::lz4(&packed),
                Compression::Zstd => bodies::zstd(&packed),
            }
        }
    }

    #[test]
    fn anything(data in vec(any::<u8>(), 0..400)) {
        bodies::scan(&data);
        bodies::decode(&data);
        bodies::gzip(&data);
        bodies::snappy(&data);
        bodies::lz4(&data);
        bodies::zstd(&data);
        heartbeat::fuzz(&data);
    }

    #[test]
    fn heartbeat_answers(damages in vec(damage(), 0..6)) {
        // Throttled by 0 ms, no error, no message, member "m", epoch 7.
        let mut body = b"\0\0\0\0\0\0\0\0\x02m\0\0\0\x07\0\0\x0b\xb8\xff\0".to_vec();
        heartbeat::fuzz(&body);
        damages.iter().for_each(|damage| apply(&mut body, damage));
        heartbeat::fuzz(&body);
    }
}
