//! From a record set to chunks of records, batch by batch, so that a caller can stop where its buffer is full.

use std::cell::RefCell;
use std::collections::HashSet;

use bytes::Bytes;

use crate::batch::{self, BatchHeader, Frame, Head, V2_CRC_FROM, V2_HEADER_BYTES};
use crate::compression::{Compression, DecompressError, Decompressors};
use crate::crc;
pub use crate::error::{DecodeError, DecodeErrorKind};
use crate::legacy;
use crate::record::{Chunk, RecordSpan, TimestampType};
use crate::varint::{Cursor, Flaw};

/// The least size of a record: six lengths, counts and deltas of one byte each, and its attributes.
const RECORD_MIN_BYTES: usize = 7;
/// Spans count in 32 bits, and Arrow's views in 31.
const MAX_BUFFER_BYTES: usize = i32::MAX as usize;

thread_local! {
    /// A fetch thread decodes one record set after another: its decompression states outlive each of them.
    static DECOMPRESSORS: RefCell<Decompressors> = RefCell::default();
}

/// What the configuration says of decoding.
#[derive(Clone, Copy, Debug)]
pub struct DecodeOptions {
    /// `check.crcs`.
    pub check_crcs: bool,
    /// Bound of one compressed batch once decompressed; the index of its records (32 bytes each) has the same bound.
    pub max_batch_bytes: usize,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            check_crcs: true,
            max_batch_bytes: 256 << 20,
        }
    }
}

/// An aborted transaction in a partition's fetch response, under read_committed. Source: KIP-98.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Whose transaction it was.
    pub producer_id: i64,
    /// Its first offset.
    pub first_offset: i64,
}

/// Which producers are inside an aborted transaction as the decoder walks through the log.
#[derive(Debug)]
struct AbortedTransactions {
    /// Not begun yet, the latest first. Brokers do not promise an order.
    pending: Vec<Aborted>,
    open: HashSet<i64>,
}

impl AbortedTransactions {
    fn new(mut pending: Vec<Aborted>) -> Self {
        pending.sort_unstable_by_key(|aborted| std::cmp::Reverse(aborted.first_offset));
        Self {
            pending,
            open: HashSet::new(),
        }
    }

    fn advance_to(&mut self, next_offset: i64) {
        while self
            .pending
            .last()
            .is_some_and(|aborted| aborted.first_offset < next_offset)
        {
            self.open
                .extend(self.pending.pop().map(|aborted| aborted.producer_id));
        }
    }
}

/// Decodes one partition's record set.
#[derive(Debug)]
pub struct Decoder {
    bytes: Bytes,
    position: usize,
    next_offset: i64,
    options: DecodeOptions,
    aborted: Option<AbortedTransactions>,
}

impl Decoder {
    /// `record_set` as the fetch response has it; `fetch_offset` as the request had it. `aborted`: None under
    /// read_uncommitted.
    pub fn new(
        record_set: Bytes,
        fetch_offset: i64,
        options: &DecodeOptions,
        aborted: Option<Vec<Aborted>>,
    ) -> Self {
        let aborted = aborted.map(AbortedTransactions::new);
        let max_batch_bytes = options.max_batch_bytes.min(MAX_BUFFER_BYTES);
        let options = DecodeOptions {
            max_batch_bytes,
            ..*options
        };
        Self {
            bytes: record_set,
            position: 0,
            next_offset: fetch_offset,
            options,
            aborted,
        }
    }

    /// The offset after the last whole batch consumed, even if none of its records was for the user (compacted away,
    /// control, aborted). The fetch offset at first.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The bytes that are not consumed yet.
    pub fn remaining_bytes(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next non-empty chunk; None at the end.
    ///
    /// Records below the fetch offset are skipped, control batches too, and aborted ones under read_committed. Batches
    /// share a chunk until it has `soft_limit_bytes`; one batch is never split.
    ///
    /// # Errors
    /// What is wrong with the next batch. What came before it has been returned by then, `next_offset` is where that
    /// ended, and every further call returns the same error.
    pub fn next_chunk(&mut self, soft_limit_bytes: usize) -> Result<Option<Chunk>, DecodeError> {
        let mut build = ChunkBuild::default();
        match self.fill(&mut build, soft_limit_bytes) {
            Err(error) if build.is_empty() => Err(error),
            _ => Ok(build.finish(&self.bytes)),
        }
    }

    fn fill(&mut self, build: &mut ChunkBuild, soft_limit_bytes: usize) -> Result<(), DecodeError> {
        if self.bytes.len() > MAX_BUFFER_BYTES {
            let what = format!(
                "a record set of {} bytes; no response can be that long",
                self.bytes.len()
            );
            return Err(DecodeError::corrupt(self.next_offset, what));
        }
        while self.position < self.bytes.len() {
            let rest = self.bytes.slice(self.position..);
            let frame = match batch::head(&rest, self.next_offset)? {
                Head::Whole(frame) => frame,
                Head::Partial(size) if self.position == 0 => {
                    return Err(cut_short(&rest, size, self.next_offset));
                }
                Head::Partial(_) => {
                    // Normal: the broker cut the response at its limit. The next fetch begins with this batch.
                    self.position = self.bytes.len();
                    break;
                }
            };
            if frame.next_offset > self.next_offset {
                let whole = rest.slice(..frame.size);
                let consumed = if frame.magic == 2 {
                    self.take_v2(&frame, &whole, build, soft_limit_bytes)?
                } else {
                    self.take_legacy(&frame, &whole, build, soft_limit_bytes)?
                };
                if !consumed {
                    break;
                }
            }
            self.position += frame.size;
            self.next_offset = self.next_offset.max(frame.next_offset);
        }
        Ok(())
    }

    /// Adds a v2 batch; false if it does not fit this chunk and is left for the next one.
    fn take_v2(
        &mut self,
        frame: &Frame,
        whole: &Bytes,
        build: &mut ChunkBuild,
        soft_limit_bytes: usize,
    ) -> Result<bool, DecodeError> {
        let at = frame.base_offset;
        let header = BatchHeader::read(whole)
            .ok_or_else(|| DecodeError::corrupt(at, "a batch without a header"))?;
        let codec = codec(at, header.attributes)?;
        let kind = Kind {
            compressed: codec != Compression::None,
            leader_epoch: header.leader_epoch,
            timestamp_type: match header.is_log_append_time() {
                true => TimestampType::LogAppend,
                false => TimestampType::Create,
            },
            has_headers: true,
        };
        if !build.accepts(
            kind,
            frame.size,
            soft_limit_bytes,
            self.options.max_batch_bytes,
        ) {
            return Ok(false);
        }
        if self.options.check_crcs {
            check_crc(
                at,
                header.crc,
                crc::crc32c(whole.get(V2_CRC_FROM..).unwrap_or_default()),
            )?;
        }
        let count = usize::try_from(header.record_count).map_err(|_| {
            DecodeError::corrupt(at, format!("a batch of {} records", header.record_count))
        })?;
        if self.is_withheld(&header, whole)? || count == 0 {
            return Ok(true);
        }
        let mark = build.mark(kind, self.position);
        let floor = self.next_offset;
        let result = if codec == Compression::None {
            let base = self.position - build.start;
            read_records(
                whole,
                V2_HEADER_BYTES,
                base,
                &header,
                floor,
                &mut build.spans,
            )
            .map_err(|flaw| DecodeError::corrupt(at, flaw))
        } else {
            let input = whole.get(V2_HEADER_BYTES..).unwrap_or_default();
            let start = build.buffer.len();
            decompress(
                codec,
                input,
                &mut build.buffer,
                self.options.max_batch_bytes,
                at,
            )
            .and_then(|()| {
                check_index(
                    count,
                    build.buffer.len() - start,
                    self.options.max_batch_bytes,
                    at,
                )?;
                read_records(&build.buffer, start, 0, &header, floor, &mut build.spans)
                    .map_err(|flaw| DecodeError::corrupt(at, flaw))
            })
        };
        build.settle(mark, self.position + frame.size, result)
    }

    /// Adds a v0 or v1 message, or the messages that a compressed one wraps; false as in `take_v2`.
    fn take_legacy(
        &mut self,
        frame: &Frame,
        whole: &Bytes,
        build: &mut ChunkBuild,
        soft_limit_bytes: usize,
    ) -> Result<bool, DecodeError> {
        let at = frame.base_offset;
        let message = legacy::Message::read(whole, 0, at)?;
        let codec = codec(at, message.attributes)?;
        let kind = Kind {
            compressed: codec != Compression::None,
            leader_epoch: -1,
            timestamp_type: message.timestamp_type(),
            has_headers: false,
        };
        if !build.accepts(
            kind,
            frame.size,
            soft_limit_bytes,
            self.options.max_batch_bytes,
        ) {
            return Ok(false);
        }
        if self.options.check_crcs {
            check_crc(
                at,
                message.crc,
                crc::crc32(whole.get(legacy::CRC_FROM..).unwrap_or_default()),
            )?;
        }
        let mark = build.mark(kind, self.position);
        let floor = self.next_offset;
        let result = match codec {
            Compression::None => {
                build.spans.push(message.span(self.position - build.start));
                Ok(())
            }
            _ => DECOMPRESSORS.with_borrow_mut(|states| {
                let wrapper = legacy::Wrapper {
                    message: &message,
                    whole,
                    codec,
                    options: &self.options,
                    floor,
                };
                wrapper.unwrap_into(states, &mut build.buffer, &mut build.spans)
            }),
        };
        build.settle(mark, self.position + frame.size, result)
    }

    /// True for a batch that is not for the user: a control batch, or one of an aborted transaction.
    fn is_withheld(&mut self, header: &BatchHeader, whole: &[u8]) -> Result<bool, DecodeError> {
        let Some(aborted) = self.aborted.as_mut() else {
            return Ok(header.is_control());
        };
        aborted.advance_to(
            header
                .base_offset
                .saturating_add(i64::from(header.last_offset_delta))
                .saturating_add(1),
        );
        if header.is_control() {
            // Either marker ends the producer's transaction: what it writes next belongs to another one, which has an
            // entry of its own if it was aborted. A marker without an entry, or a second one, finds nothing to remove.
            if is_end_marker(header, whole)
                .map_err(|flaw| DecodeError::corrupt(header.base_offset, flaw))?
            {
                aborted.open.remove(&header.producer_id);
            }
            return Ok(true);
        }
        Ok(header.is_transactional() && aborted.open.contains(&header.producer_id))
    }
}

/// Whether a control batch ends a transaction: its record's key is (version: int16, type: int16), type 0 for abort and 1
/// for commit. Compaction may have left it empty. Source: KIP-98.
fn is_end_marker(header: &BatchHeader, whole: &[u8]) -> Result<bool, Flaw> {
    if header.record_count == 0
        || Compression::of_attributes(header.attributes) != Some(Compression::None)
    {
        return Ok(false);
    }
    let mut cursor = Cursor::new(whole, V2_HEADER_BYTES);
    cursor.varint()?; // The record's length; its end is that of the batch.
    cursor.skip(1)?;
    cursor.varlong()?;
    cursor.varint()?;
    let (start, len) = cursor.nullable_span()?;
    if len < 4 {
        return Err("a control record without a type");
    }
    Ok(matches!(
        batch::i16_at(whole, start as usize + 2),
        Some(0 | 1)
    ))
}

/// Reads the records of a v2 batch that stand in `data` from `start` on. Spans point `base` bytes further than `data`.
fn read_records(
    data: &[u8],
    start: usize,
    base: usize,
    header: &BatchHeader,
    floor: i64,
    spans: &mut Vec<RecordSpan>,
) -> Result<(), Flaw> {
    let count = header.record_count.max(0) as usize;
    let log_append_time = header.is_log_append_time();
    let base = base as u32;
    if count > (data.len() - start) / RECORD_MIN_BYTES {
        return Err("the batch declares more records than its bytes can hold");
    }
    spans.reserve(count);
    let mut cursor = Cursor::new(data, start);
    let mut least_delta = 0;
    for _ in 0..count {
        let length =
            usize::try_from(cursor.varint()?).map_err(|_| "a record has a negative length")?;
        if length > cursor.remaining() {
            return Err("a record is longer than its batch");
        }
        let end = cursor.at() + length;
        cursor.skip(1)?; // Attributes: none are given out.
        let timestamp_delta = cursor.varlong()?;
        let offset_delta = cursor.varint()?;
        let (key_start, key_len) = cursor.nullable_span()?;
        let (value_start, value_len) = cursor.nullable_span()?;
        let headers = cursor.varint()?;
        if headers != 0 {
            check_headers(&mut cursor, headers)?;
        }
        if cursor.at() != end {
            return Err("a record's parts do not add up to its length");
        }
        if offset_delta < least_delta || offset_delta > header.last_offset_delta {
            return Err("the offsets of the batch do not ascend within its range");
        }
        least_delta = offset_delta.saturating_add(1);
        let offset = header.base_offset + i64::from(offset_delta);
        if offset >= floor {
            let timestamp = match log_append_time {
                true => header.max_timestamp,
                false => header.base_timestamp.wrapping_add(timestamp_delta),
            };
            let (key_start, value_start) = (base + key_start, base + value_start);
            spans.push(RecordSpan {
                offset,
                timestamp,
                key_start,
                key_len,
                value_start,
                value_len,
            });
        }
    }
    if cursor.remaining() > 0 {
        return Err("bytes are left after the last record of the batch");
    }
    Ok(())
}

#[inline(never)]
fn check_headers(cursor: &mut Cursor<'_>, count: i32) -> Result<(), Flaw> {
    let count = usize::try_from(count).map_err(|_| "a record has a negative number of headers")?;
    for _ in 0..count {
        cursor.header_key()?;
        cursor.header_value()?;
    }
    Ok(())
}

fn codec(offset: i64, attributes: i16) -> Result<Compression, DecodeError> {
    Compression::of_attributes(attributes).ok_or_else(|| {
        let number = attributes & 0x07;
        DecodeError::unsupported(
            offset,
            format!("codec number {number}; 0 to 4 are known: a newer client may read it"),
        )
    })
}

pub(crate) fn check_crc(offset: i64, declared: u32, actual: u32) -> Result<(), DecodeError> {
    if declared == actual {
        return Ok(());
    }
    let what = format!(
        "the batch fails its checksum: {declared:#010x} declared, {actual:#010x} found; \
         fetch it again, or seek past it if the broker's own copy is damaged"
    );
    Err(DecodeError::corrupt(offset, what))
}

pub(crate) fn decompress_with(
    states: &mut Decompressors,
    codec: Compression,
    input: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
    offset: i64,
) -> Result<(), DecodeError> {
    states
        .decompress(codec, input, out, limit)
        .map_err(|error| match error {
            DecompressError::Corrupt(what) => DecodeError::corrupt(offset, what),
            DecompressError::TooLarge => too_large(offset, limit),
        })
}

fn decompress(
    codec: Compression,
    input: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
    offset: i64,
) -> Result<(), DecodeError> {
    DECOMPRESSORS
        .with_borrow_mut(|states| decompress_with(states, codec, input, out, limit, offset))
}

fn too_large(offset: i64, limit: usize) -> DecodeError {
    let what = format!(
        "the batch decompresses to more than the limit of {limit} bytes; raise it or seek past the batch"
    );
    DecodeError::too_large(offset, what)
}

/// The index of tiny records can outweigh them: it counts, too.
fn check_index(count: usize, bytes: usize, limit: usize, offset: i64) -> Result<(), DecodeError> {
    if count.min(bytes / RECORD_MIN_BYTES) * size_of::<RecordSpan>() > limit {
        return Err(too_large(offset, limit));
    }
    Ok(())
}

/// Since KIP-74 brokers send the first batch whole, whatever its size.
fn cut_short(rest: &[u8], size: Option<usize>, offset: i64) -> DecodeError {
    match size {
        Some(size) => {
            let base_offset = batch::i64_at(rest, 0).unwrap_or(offset);
            let what = format!(
                "a batch of {size} bytes of which the broker sent {}; raise max.partition.fetch.bytes and \
                 fetch.max.bytes above its size",
                rest.len()
            );
            DecodeError::too_large(base_offset, what)
        }
        None => DecodeError::corrupt(
            offset,
            format!("{} bytes where a batch should begin", rest.len()),
        ),
    }
}

/// What all batches of a chunk have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    compressed: bool,
    leader_epoch: i32,
    timestamp_type: TimestampType,
    has_headers: bool,
}

/// Where a chunk stood before a batch was tried.
struct Mark {
    spans: usize,
    buffer: usize,
}

/// A chunk in the making.
#[derive(Default)]
struct ChunkBuild {
    kind: Option<Kind>,
    spans: Vec<RecordSpan>,
    /// Uncompressed: where the chunk begins and ends in the record set.
    start: usize,
    end: usize,
    /// Compressed: the decompressed batches.
    buffer: Vec<u8>,
    /// What the last batch became in memory, as the best guess at the next one.
    last_batch_bytes: usize,
}

impl ChunkBuild {
    fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    fn memory_bytes(&self) -> usize {
        let held = if self.buffer.is_empty() {
            self.end - self.start
        } else {
            self.buffer.len()
        };
        held + self.spans.len() * size_of::<RecordSpan>()
    }

    fn accepts(
        &self,
        kind: Kind,
        size: usize,
        soft_limit_bytes: usize,
        max_batch_bytes: usize,
    ) -> bool {
        let expected = self.memory_bytes() + size.max(self.last_batch_bytes);
        let addressable = self.buffer.len() + max_batch_bytes <= MAX_BUFFER_BYTES;
        self.is_empty() || (self.kind == Some(kind) && expected <= soft_limit_bytes && addressable)
    }

    fn mark(&mut self, kind: Kind, position: usize) -> Mark {
        if self.is_empty() {
            self.kind = Some(kind);
            self.start = position;
            self.end = position;
            self.buffer.clear();
        }
        Mark {
            spans: self.spans.len(),
            buffer: self.buffer.len(),
        }
    }

    /// Keeps what a batch has added, or takes it back if it failed or gave no record.
    fn settle(
        &mut self,
        mark: Mark,
        end: usize,
        result: Result<(), DecodeError>,
    ) -> Result<bool, DecodeError> {
        let added = self.spans.len() - mark.spans;
        if result.is_err() || added == 0 {
            self.spans.truncate(mark.spans);
            self.buffer.truncate(mark.buffer);
            return result.map(|()| true);
        }
        let before = self.end;
        self.end = end;
        let grown = if self.buffer.is_empty() {
            end - before
        } else {
            self.buffer.len() - mark.buffer
        };
        self.last_batch_bytes = grown + added * size_of::<RecordSpan>();
        Ok(true)
    }

    fn finish(mut self, record_set: &Bytes) -> Option<Chunk> {
        let kind = self.kind.filter(|_| !self.spans.is_empty())?;
        let (bytes, retained_bytes) = if kind.compressed {
            // Space that was reserved and never filled would count as if it were.
            self.buffer.shrink_to_fit();
            let retained = self.buffer.capacity();
            (Bytes::from(self.buffer), retained)
        } else {
            let bytes = record_set.slice(self.start..self.end);
            let retained = bytes.len();
            (bytes, retained)
        };
        Some(Chunk {
            bytes,
            spans: self.spans,
            leader_epoch: kind.leader_epoch,
            timestamp_type: kind.timestamp_type,
            has_headers: kind.has_headers,
            retained_bytes,
        })
    }
}
