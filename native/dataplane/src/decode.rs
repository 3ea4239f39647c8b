//! From a record set to chunks of records, batch by batch, so that a caller can stop where its buffer is full.

use std::cell::RefCell;

use bytes::Bytes;

use crate::batch::{self, BatchHeader, Frame, Head, V2_CRC_FROM, V2_HEADER_BYTES};
use crate::chunk_build::{ChunkBuild, Kind};
use crate::compression::{Compression, DecompressError, Decompressors};
use crate::crc;
pub use crate::error::{DecodeError, DecodeErrorKind};
use crate::legacy;
use crate::record::{Chunk, RecordSpan, TimestampType};
pub use crate::transactions::Aborted;
use crate::transactions::AbortedTransactions;
use crate::v2::{RECORD_MIN_BYTES, read_records};

/// Spans count in 32 bits, and Arrow's views in 31.
pub(crate) const MAX_BUFFER_BYTES: usize = i32::MAX as usize;

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

/// Decodes one partition's record set.
#[derive(Debug)]
pub struct Decoder {
    bytes: Bytes,
    position: usize,
    next_offset: i64,
    leader_epoch: i32,
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
            leader_epoch: -1,
            options,
            aborted,
        }
    }

    /// The offset after the last whole batch consumed, even if none of its records was for the user (compacted away,
    /// control, aborted). The fetch offset at first.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The leader epoch of that batch; -1 before v2, and at first.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
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
        let mut build = ChunkBuild::new();
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
            if frame.next_offset > self.next_offset {
                self.next_offset = frame.next_offset;
                self.leader_epoch = frame.leader_epoch;
            }
        }
        Ok(())
    }

    /// The codec. Where it is none that is known, a flipped bit is ruled out first: that would be another error.
    fn codec(
        &self,
        at: i64,
        attributes: i16,
        declared: u32,
        actual: impl Fn() -> u32,
    ) -> Result<Compression, DecodeError> {
        let codec = codec(at, attributes);
        if codec.is_err() && self.options.check_crcs {
            check_crc(at, declared, actual())?;
        }
        codec
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
        let crc = || crc::crc32c(whole.get(V2_CRC_FROM..).unwrap_or_default());
        let codec = self.codec(at, header.attributes, header.crc, crc)?;
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
            check_crc(at, header.crc, crc())?;
        }
        if header.record_count < 0 {
            let what = format!("a batch of {} records", header.record_count);
            return Err(DecodeError::corrupt(at, what));
        }
        let withheld = match self.aborted.as_mut() {
            None => header.is_control(),
            Some(aborted) => aborted
                .withhold(&header, whole)
                .map_err(|flaw| DecodeError::corrupt(at, flaw))?,
        };
        if withheld || header.record_count == 0 {
            return Ok(true);
        }
        let mark = build.mark(kind, self.position);
        let result = self.read_v2(&header, codec, whole, build);
        build.settle(mark, self.position + frame.size, result)
    }

    /// The records of a v2 batch: from the response itself, or from what they decompress to.
    fn read_v2(
        &self,
        header: &BatchHeader,
        codec: Compression,
        whole: &[u8],
        build: &mut ChunkBuild,
    ) -> Result<(), DecodeError> {
        let at = header.base_offset;
        let floor = self.next_offset;
        if codec == Compression::None {
            let base = self.position - build.start;
            return read_records(
                whole,
                V2_HEADER_BYTES,
                base,
                header,
                floor,
                &mut build.spans,
            )
            .map_err(|flaw| DecodeError::corrupt(at, flaw));
        }
        let limit = self.options.max_batch_bytes;
        let input = whole.get(V2_HEADER_BYTES..).unwrap_or_default();
        let start = build.buffer.len();
        decompress(codec, input, &mut build.buffer, limit, at)?;
        let count = header.record_count.max(0) as usize;
        check_index(count, build.buffer.len() - start, limit, at)?;
        read_records(&build.buffer, start, 0, header, floor, &mut build.spans)
            .map_err(|flaw| DecodeError::corrupt(at, flaw))
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
        let crc = || crc::crc32(whole.get(legacy::CRC_FROM..).unwrap_or_default());
        let codec = self.codec(at, message.attributes, message.crc, crc)?;
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
            check_crc(at, message.crc, crc())?;
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
