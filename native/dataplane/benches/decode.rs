//! Records per second through the decoder and into Arrow columns, on one core: `cargo bench -p penstock-dataplane`.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use penstock_dataplane::arrow_columns::{BinaryLayout, Slice, to_record_batches};
use penstock_dataplane::compression::Compression;
use penstock_dataplane::decode::{DecodeOptions, Decoder};
use penstock_dataplane::encode::{BatchBuilder, Producer};
use penstock_dataplane::record::Chunk;

const RECORDS_PER_BATCH: usize = 150;
const BATCHES: usize = 400;
const ROUNDS: u32 = 15;
const SOFT_LIMIT_BYTES: usize = 1 << 20;

/// About a hundred bytes of JSON per record, as producers write them by default: batches of 16 KiB.
fn record_set(codec: Compression) -> Bytes {
    let mut log = Vec::new();
    for index in 0..BATCHES {
        let mut builder = BatchBuilder::new(codec, None);
        for record in 0..RECORDS_PER_BATCH {
            let id =
                (index * RECORDS_PER_BATCH + record).wrapping_mul(2_654_435_761) % 1_000_000_007;
            let value = format!(
                "{{\"id\":{id},\"user\":\"user-{}\",\"amount\":{}.{:02},\"currency\":\"EUR\",\"status\":\"settled\",\"n\":{record}}}",
                id % 10_007,
                id % 977,
                id % 97
            );
            let key = (id as u32).to_be_bytes();
            let _ = builder.append(
                1_600_000_000_000 + record as i64,
                Some(&key),
                Some(value.as_bytes()),
                &[],
            );
        }
        let Ok(mut batch) = builder.build(&Producer::default()) else {
            continue;
        };
        if let Some(base_offset) = batch.get_mut(..8) {
            base_offset.copy_from_slice(&((index * RECORDS_PER_BATCH) as i64).to_be_bytes());
        }
        log.extend(batch);
    }
    log.into()
}

fn decode(record_set: &Bytes, check_crcs: bool) -> Vec<Chunk> {
    let options = DecodeOptions {
        check_crcs,
        ..DecodeOptions::default()
    };
    let mut decoder = Decoder::new(record_set.clone(), 0, &options, None);
    let mut chunks = Vec::new();
    while let Ok(Some(chunk)) = decoder.next_chunk(SOFT_LIMIT_BYTES) {
        chunks.push(chunk);
    }
    chunks
}

fn report<T>(what: &str, mut work: impl FnMut() -> T) {
    black_box(work());
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        black_box(work());
        best = best.min(start.elapsed().as_secs_f64());
    }
    let records = (RECORDS_PER_BATCH * BATCHES) as f64;
    println!("{what:32} {:8.1} million records/s", records / best / 1e6);
}

fn main() {
    for codec in Compression::ALL {
        let log = record_set(codec);
        let name = codec.name();
        report(&format!("decode {name}"), || decode(&log, true));
        if codec == Compression::None {
            report("decode none, no CRC", || decode(&log, false));
            let chunks = decode(&log, true);
            report("read key and value", || {
                let each = chunks
                    .iter()
                    .flat_map(|chunk| (0..chunk.len()).map(move |index| (chunk, index)));
                each.map(|(chunk, index)| {
                    chunk.key(index).map_or(0, <[u8]>::len)
                        + chunk.value(index).map_or(0, <[u8]>::len)
                })
                .sum::<usize>()
            });
            let slices: Vec<Slice> = chunks
                .into_iter()
                .map(|chunk| {
                    let end = chunk.len();
                    Slice {
                        topic: "t".into(),
                        partition: 0,
                        chunk: Arc::new(chunk),
                        start: 0,
                        end,
                    }
                })
                .collect();
            for layout in [BinaryLayout::Binary, BinaryLayout::View] {
                report(&format!("to Arrow, {layout:?}"), || {
                    to_record_batches(&slices, layout)
                });
            }
        }
    }
}
