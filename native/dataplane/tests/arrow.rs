//! Records as Arrow columns, in both layouts, and through the C data interface.

mod common;

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::ffi_stream::RecordBatchStreamReader;
use arrow_array::types::{Int32Type, Int64Type, TimestampMillisecondType};
use arrow_array::{Array, RecordBatch};
use common::{OPTIONS, Owned, batch, chunks_of, owned, stored};
use penstock_dataplane::arrow_columns::{BinaryLayout, Slice, schema, stream, to_record_batches};
use penstock_dataplane::compression::Compression;
use penstock_dataplane::decode::Decoder;
use penstock_dataplane::encode::{BatchBuilder, Producer};

const LAYOUTS: [BinaryLayout; 2] = [BinaryLayout::Binary, BinaryLayout::View];

fn slices_of(topic: &str, partition: i32, record_set: Vec<u8>) -> Vec<Slice> {
    let mut decoder = Decoder::new(record_set.into(), 0, &OPTIONS, None);
    let (chunks, error) = chunks_of(&mut decoder, 1000);
    assert_eq!(error, None);
    let whole = |chunk| {
        let chunk = Arc::new(chunk);
        let end = penstock_dataplane::record::Chunk::len(&chunk);
        Slice {
            topic: topic.into(),
            partition,
            chunk,
            start: 0,
            end,
        }
    };
    chunks.into_iter().map(whole).collect()
}

/// Null and empty values, some short enough to stand inside a view and some not, headers of every sort.
fn varied() -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::Lz4, None);
    let long = [b'x'; 40];
    builder.append(10, Some(b"k"), Some(&long), &[]).unwrap();
    builder
        .append(-1, None, None, &[(b"a", Some(b"1")), (b"b", None)])
        .unwrap();
    builder
        .append(
            30,
            Some(b""),
            Some(b"twelve bytes"),
            &[(b"\xff", Some(b""))],
        )
        .unwrap();
    builder
        .append(40, Some(&long), Some(b"thirteenbytes"), &[])
        .unwrap();
    stored(builder.build(&Producer::default()).unwrap(), 0)
}

fn sample() -> Vec<Slice> {
    let plain = [
        batch(0, 9, Compression::None),
        batch(9, 9, Compression::None),
    ]
    .concat();
    let mut slices = slices_of("orders", 0, plain);
    slices.extend(slices_of("päyments", 5, varied()));
    slices.extend(slices_of("orders", 2, batch(0, 4, Compression::Zstd)));
    if let Some(first) = slices.first_mut() {
        (first.start, first.end) = (2, 7);
    }
    slices
}

type Row = (String, i32, Owned);

fn expected(slices: &[Slice]) -> Vec<Row> {
    let rows = |slice: &Slice| {
        let (topic, partition, chunk) = (
            slice.topic.to_string(),
            slice.partition,
            slice.chunk.clone(),
        );
        (slice.start..slice.end).map(move |index| (topic.clone(), partition, owned(&chunk, index)))
    };
    let mut all: Vec<Row> = slices.iter().flat_map(rows).collect();
    for (_, _, record) in &mut all {
        (record.timestamp_type, record.leader_epoch) = (0, 0); // No columns.
        for (key, _) in &mut record.headers {
            *key = String::from_utf8_lossy(key).into_owned().into_bytes();
        }
    }
    all
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let topics = batch["topic"].as_dictionary::<Int32Type>();
    let names = topics.values().as_string::<i32>();
    let bytes = |column: &str, row: usize| {
        let column = &batch[column];
        let value = match column.as_binary_opt::<i32>() {
            Some(binary) => binary.value(row),
            None => column.as_binary_view().value(row),
        };
        column.is_valid(row).then(|| value.to_vec())
    };
    let headers = |row: usize| {
        let items = batch["headers"].as_list::<i32>().value(row);
        let items = items.as_struct();
        let (keys, values) = (
            items.column(0).as_string::<i32>(),
            items.column(1).as_binary::<i32>(),
        );
        let value = |index| values.is_valid(index).then(|| values.value(index).to_vec());
        (0..items.len())
            .map(|index| (keys.value(index).as_bytes().to_vec(), value(index)))
            .collect()
    };
    let record = |row: usize| Owned {
        offset: batch["offset"].as_primitive::<Int64Type>().value(row),
        timestamp: match &batch["timestamp"] {
            column if column.is_null(row) => -1,
            column => column.as_primitive::<TimestampMillisecondType>().value(row),
        },
        timestamp_type: 0,
        leader_epoch: 0,
        key: bytes("key", row),
        value: bytes("value", row),
        headers: headers(row),
    };
    let topic = |row: usize| names.value(topics.keys().value(row) as usize).to_string();
    let partition = |row: usize| batch["partition"].as_primitive::<Int32Type>().value(row);
    (0..batch.num_rows())
        .map(|row| (topic(row), partition(row), record(row)))
        .collect()
}

#[test]
fn every_record_is_a_row() {
    let slices = sample();
    for layout in LAYOUTS {
        let batches = to_record_batches(&slices, layout).unwrap();
        assert_eq!(batches.len(), 1);
        assert_eq!(*batches[0].schema(), schema(layout));
        assert_eq!(rows(&batches[0]), expected(&slices), "{layout:?}");
    }
}

#[test]
fn the_stream_gives_the_same_after_its_source_is_gone() {
    let slices = sample();
    let want = expected(&slices);
    for layout in LAYOUTS {
        let reader = RecordBatchStreamReader::try_new(stream(slices.clone(), layout)).unwrap();
        let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        assert_eq!(rows(&batches[0]), want, "{layout:?}");
    }
    let reader = RecordBatchStreamReader::try_new(stream(slices, BinaryLayout::View)).unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    assert_eq!(rows(&batches[0]), want);
}

#[test]
fn an_empty_poll_has_the_schema_and_no_batch() {
    for layout in LAYOUTS {
        let reader = RecordBatchStreamReader::try_new(stream(vec![], layout)).unwrap();
        assert_eq!(
            *arrow_array::RecordBatchReader::schema(&reader),
            schema(layout)
        );
        assert_eq!(reader.count(), 0);
    }
}

#[test]
fn views_point_into_the_chunk() {
    let slices = slices_of("t", 0, varied());
    let batches = to_record_batches(&slices, BinaryLayout::View).unwrap();
    let values = batches[0]["value"].as_binary_view();
    assert_eq!(
        values.data_buffers()[0].as_ptr(),
        slices[0].chunk.bytes.as_ptr()
    );
    assert_eq!(
        values.value(0).as_ptr(),
        slices[0].chunk.value(0).unwrap().as_ptr()
    );
}

#[test]
fn slices_beyond_their_chunk_are_refused() {
    let mut slices = slices_of("t", 0, varied());
    slices[0].end += 1;
    for layout in LAYOUTS {
        assert!(to_record_batches(&slices, layout).is_err());
    }
}
