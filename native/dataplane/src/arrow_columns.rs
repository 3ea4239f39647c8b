//! Records as Arrow columns, handed on by the C data interface.
//! Source: <https://arrow.apache.org/docs/format/Columnar.html>, <https://arrow.apache.org/docs/format/CStreamInterface.html>.

use std::sync::Arc;

use arrow_array::builder::make_view;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, BinaryViewArray, DictionaryArray, Int32Array, Int64Array, ListArray,
    RecordBatch, RecordBatchReader, StringArray, StructArray, TimestampMillisecondArray,
};
use arrow_buffer::{Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::record::{Chunk, RecordSpan};

/// Offsets of Arrow's binary, string and list columns have 31 bits.
const MAX_COLUMN_BYTES: usize = i32::MAX as usize;
const NO_TIMESTAMP: i64 = -1;

/// How the columns `key` and `value` are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryLayout {
    /// `Binary`: copied, one after another. Every reader knows it.
    Binary,
    /// `BinaryView`: 16 bytes per record that point into the chunks, which stay alive with them; nothing is copied but
    /// what has at most 12 bytes.
    View,
}

impl BinaryLayout {
    fn data_type(self) -> DataType {
        match self {
            Self::Binary => DataType::Binary,
            Self::View => DataType::BinaryView,
        }
    }
}

/// A run of records of one chunk, for one poll.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
    /// Where the records are.
    pub chunk: Arc<Chunk>,
    /// Index of the first record.
    pub start: usize,
    /// Index after the last record.
    pub end: usize,
}

impl Slice {
    fn spans(&self) -> Result<&[RecordSpan], ArrowError> {
        self.chunk.spans.get(self.start..self.end).ok_or_else(|| {
            let (start, end, len) = (self.start, self.end, self.chunk.len());
            ArrowError::InvalidArgumentError(format!("records {start}..{end} of a chunk of {len}"))
        })
    }

    /// The bytes from the first record's key to the last record's end: no column can have more of this slice.
    fn extent_bytes(&self) -> usize {
        let begin = self
            .chunk
            .spans
            .get(self.start)
            .map_or(0, |span| span.key_start as usize);
        let end = self
            .chunk
            .spans
            .get(self.end)
            .map(|span| span.key_start as usize);
        end.unwrap_or(self.chunk.bytes.len()).saturating_sub(begin)
    }
}

/// The columns of a poll, which an empty one has, too: `topic` dictionary<int32, utf8>, `partition` int32, `offset` int64,
/// `timestamp` timestamp[ms, UTC] (null where a record has none), `key` and `value` binary (nullable), `headers`
/// list<struct<key: utf8, value: binary (nullable)>>.
pub fn schema(layout: BinaryLayout) -> Schema {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    Schema::new(vec![
        Field::new("topic", dictionary, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new(
            "timestamp",
            DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            true,
        ),
        Field::new("key", layout.data_type(), true),
        Field::new("value", layout.data_type(), true),
        Field::new("headers", DataType::List(header_item()), false),
    ])
}

fn header_fields() -> Fields {
    Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Binary, true),
    ])
}

fn header_item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(header_fields()), false))
}

/// The records as few record batches as fit 31-bit offsets: one, up to 2 GiB.
///
/// # Errors
/// Slices beyond their chunks.
pub fn to_record_batches(
    slices: &[Slice],
    layout: BinaryLayout,
) -> Result<Vec<RecordBatch>, ArrowError> {
    Batches::new(slices.to_vec(), layout, MAX_COLUMN_BYTES).collect()
}

/// The records as a stream of the C data interface. A record batch is built when the reader asks for it.
pub fn stream(slices: Vec<Slice>, layout: BinaryLayout) -> FFI_ArrowArrayStream {
    FFI_ArrowArrayStream::new(Box::new(Batches::new(slices, layout, MAX_COLUMN_BYTES)))
}

/// Record batches in the making, each of as many slices as `max_bytes` allows, and at least of one.
struct Batches {
    schema: SchemaRef,
    layout: BinaryLayout,
    slices: Vec<Slice>,
    next: usize,
    max_bytes: usize,
}

impl Batches {
    fn new(slices: Vec<Slice>, layout: BinaryLayout, max_bytes: usize) -> Self {
        Self {
            schema: Arc::new(schema(layout)),
            layout,
            slices,
            next: 0,
            max_bytes,
        }
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self
            .slices
            .get(self.next..)
            .filter(|rest| !rest.is_empty())?;
        let mut bytes = 0_usize;
        let fits = rest.iter().take_while(|slice| {
            bytes = bytes.saturating_add(slice.extent_bytes());
            bytes <= self.max_bytes
        });
        let count = fits.count().max(1);
        self.next += count;
        Some(record_batch(
            &self.schema,
            rest.get(..count).unwrap_or_default(),
            self.layout,
        ))
    }
}

impl RecordBatchReader for Batches {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

fn record_batch(
    schema: &SchemaRef,
    slices: &[Slice],
    layout: BinaryLayout,
) -> Result<RecordBatch, ArrowError> {
    let runs: Vec<Run<'_>> = slices
        .iter()
        .map(|slice| Ok((slice, slice.spans()?)))
        .collect::<Result<_, ArrowError>>()?;
    let rows = runs.iter().map(|(_, spans)| spans.len()).sum();
    let mut partitions = Vec::with_capacity(rows);
    let mut offsets = Vec::with_capacity(rows);
    for (slice, spans) in &runs {
        partitions.extend(std::iter::repeat_n(slice.partition, spans.len()));
        offsets.extend(spans.iter().map(|span| span.offset));
    }
    let (key, value): (Part, Part) = (
        |span| (span.key_start, span.key_len),
        |span| (span.value_start, span.value_len),
    );
    let column = match layout {
        BinaryLayout::Binary => binary,
        BinaryLayout::View => views,
    };
    let columns: Vec<ArrayRef> = vec![
        topics(&runs, rows)?,
        Arc::new(Int32Array::from(partitions)),
        Arc::new(Int64Array::from(offsets)),
        timestamps(&runs, rows),
        column(&runs, rows, key)?,
        column(&runs, rows, value)?,
        headers(&runs, rows)?,
    ];
    RecordBatch::try_new(schema.clone(), columns)
}

type Run<'a> = (&'a Slice, &'a [RecordSpan]);
/// Picks (start, length or -1) of the key or the value.
type Part = fn(&RecordSpan) -> (u32, i32);

fn topics(runs: &[Run<'_>], rows: usize) -> Result<ArrayRef, ArrowError> {
    let mut names: Vec<&str> = Vec::new();
    let mut indices = Vec::with_capacity(rows);
    for (slice, spans) in runs {
        let index = names
            .iter()
            .rposition(|name| *name == &*slice.topic)
            .unwrap_or_else(|| {
                names.push(&slice.topic);
                names.len() - 1
            });
        indices.extend(std::iter::repeat_n(index as i32, spans.len()));
    }
    let values = Arc::new(StringArray::from(names));
    Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(
        Int32Array::from(indices),
        values,
    )?))
}

fn timestamps(runs: &[Run<'_>], rows: usize) -> ArrayRef {
    let mut values = Vec::with_capacity(rows);
    for (_, spans) in runs {
        values.extend(spans.iter().map(|span| span.timestamp));
    }
    let nulls = values.contains(&NO_TIMESTAMP).then(|| {
        let present: Vec<bool> = values
            .iter()
            .map(|timestamp| *timestamp != NO_TIMESTAMP)
            .collect();
        NullBuffer::from(present)
    });
    Arc::new(TimestampMillisecondArray::new(values.into(), nulls).with_timezone("UTC"))
}

fn binary(runs: &[Run<'_>], rows: usize, part: Part) -> Result<ArrayRef, ArrowError> {
    let all = runs.iter().flat_map(|(_, spans)| spans.iter());
    let total: usize = all.map(|span| part(span).1.max(0) as usize).sum();
    offset_of(total)?;
    let mut offsets: Vec<i32> = Vec::with_capacity(rows + 1);
    let mut bytes: Vec<u8> = Vec::with_capacity(total);
    let mut nulls = NullBufferBuilder::new(rows);
    offsets.push(0);
    for (slice, spans) in runs {
        for span in *spans {
            let (start, len) = part(span);
            if len < 0 {
                nulls.append_null();
            } else {
                nulls.append_non_null();
                bytes.extend_from_slice(within(&slice.chunk, start, len)?);
            }
            offsets.push(bytes.len() as i32);
        }
    }
    let offsets = OffsetBuffer::new(offsets.into());
    Ok(Arc::new(BinaryArray::try_new(
        offsets,
        Buffer::from_vec(bytes),
        nulls.finish(),
    )?))
}

fn views(runs: &[Run<'_>], rows: usize, part: Part) -> Result<ArrayRef, ArrowError> {
    let mut views: Vec<u128> = Vec::with_capacity(rows);
    let mut buffers: Vec<Buffer> = Vec::with_capacity(runs.len());
    let mut nulls = NullBufferBuilder::new(rows);
    for (slice, spans) in runs {
        let index = buffers.len() as u32;
        buffers.push(Buffer::from(slice.chunk.bytes.clone()));
        for span in *spans {
            let (start, len) = part(span);
            if len < 0 {
                nulls.append_null();
                views.push(0);
            } else {
                nulls.append_non_null();
                views.push(make_view(within(&slice.chunk, start, len)?, index, start));
            }
        }
    }
    let views = ScalarBuffer::from(views);
    Ok(Arc::new(BinaryViewArray::try_new(
        views,
        buffers,
        nulls.finish(),
    )?))
}

#[inline]
fn within(chunk: &Chunk, start: u32, len: i32) -> Result<&[u8], ArrowError> {
    let (start, len) = (start as usize, len.max(0) as usize);
    chunk
        .bytes
        .get(start..start + len)
        .ok_or_else(|| ArrowError::InvalidArgumentError("a record beyond its chunk".into()))
}

fn offset_of(total: usize) -> Result<i32, ArrowError> {
    i32::try_from(total).map_err(|_| ArrowError::OffsetOverflowError(total))
}

fn headers(runs: &[Run<'_>], rows: usize) -> Result<ArrayRef, ArrowError> {
    let mut list_offsets: Vec<i32> = Vec::with_capacity(rows + 1);
    let (mut key_offsets, mut value_offsets) = (vec![0_i32], vec![0_i32]);
    let (mut keys, mut values) = (String::new(), Vec::<u8>::new());
    let mut nulls = NullBufferBuilder::new(0);
    list_offsets.push(0);
    for (slice, spans) in runs {
        if !slice.chunk.has_headers {
            let last = list_offsets.last().copied().unwrap_or(0);
            list_offsets.extend(std::iter::repeat_n(last, spans.len()));
            continue;
        }
        for index in slice.start..slice.end {
            for (key, value) in slice.chunk.headers(index) {
                // The protocol says UTF-8, but no broker checks it: a foreign byte must not take the batch with it.
                keys.push_str(&String::from_utf8_lossy(key));
                key_offsets.push(offset_of(keys.len())?);
                values.extend_from_slice(value.unwrap_or_default());
                value_offsets.push(offset_of(values.len())?);
                nulls.append(value.is_some());
            }
            list_offsets.push(offset_of(key_offsets.len() - 1)?);
        }
    }
    let key_offsets = OffsetBuffer::new(key_offsets.into());
    let value_offsets = OffsetBuffer::new(value_offsets.into());
    let key = StringArray::try_new(key_offsets, Buffer::from(keys.into_bytes()), None)?;
    let value = BinaryArray::try_new(value_offsets, Buffer::from_vec(values), nulls.finish())?;
    let items = StructArray::try_new(header_fields(), vec![Arc::new(key), Arc::new(value)], None)?;
    let list_offsets = OffsetBuffer::new(list_offsets.into());
    Ok(Arc::new(ListArray::try_new(
        header_item(),
        list_offsets,
        Arc::new(items),
        None,
    )?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::Compression;
    use crate::decode::{DecodeOptions, Decoder};
    use crate::encode::{BatchBuilder, Producer};

    #[test]
    fn a_poll_beyond_the_bound_is_several_batches() {
        let mut builder = BatchBuilder::new(Compression::None, None);
        for _ in 0..4 {
            builder.append(1, None, Some(&[7; 100]), &[]).expect("fits");
        }
        let batch = builder.build(&Producer::default()).expect("builds");
        let mut decoder = Decoder::new(batch.into(), 0, &DecodeOptions::default(), None);
        let chunk = Arc::new(
            decoder
                .next_chunk(0)
                .expect("decodes")
                .expect("has records"),
        );
        let slice = |start, end| Slice {
            topic: "t".into(),
            partition: 0,
            chunk: chunk.clone(),
            start,
            end,
        };
        let slices = vec![
            slice(0, 1),
            slice(1, 2),
            slice(2, 4),
            slice(0, 1),
            slice(3, 4),
        ];
        let rows = |max_bytes| {
            let batches = Batches::new(slices.clone(), BinaryLayout::Binary, max_bytes);
            batches
                .map(|batch| batch.expect("builds").num_rows())
                .collect::<Vec<_>>()
        };
        assert_eq!(rows(MAX_COLUMN_BYTES), [6]);
        assert_eq!(rows(250), [2, 2, 2]);
        assert_eq!(rows(1), [1, 1, 2, 1, 1]);
    }
}
