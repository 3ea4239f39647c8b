//! Message formats v0 and v1, which old logs still hold. Source: KIP-31, KIP-32,
//! <https://kafka.apache.org/documentation/#messageset>.

use crate::batch::{LOG_OVERHEAD, MAGIC_AT, V0_MIN_BYTES, V1_MIN_BYTES, i32_at, i64_at};
use crate::compression::{Compression, Decompressors, mend_lz4_header};
use crate::crc;
use crate::decode::{DecodeOptions, check_crc, decompress_with};
use crate::error::DecodeError;
use crate::record::{RecordSpan, TimestampType};

/// Where a message's checksum begins to count: at its magic byte.
pub(crate) const CRC_FROM: usize = MAGIC_AT;
const CRC_AT: usize = 12;
const ATTRIBUTES_AT: usize = 17;
const TIMESTAMP_AT: usize = 18;
const LOG_APPEND_TIME: i16 = 0x08;

/// One message as it stands at some place of a message set; positions count from the set's beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub offset: i64,
    pub size: usize,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub timestamp: i64,
    key_start: usize,
    key_len: i32,
    value_start: usize,
    value_len: i32,
}

impl Message {
    /// Reads the message at `start`, which must be there whole. `batch_offset` names the batch in errors.
    pub fn read(set: &[u8], start: usize, batch_offset: i64) -> Result<Self, DecodeError> {
        let corrupt = |what: &str| {
            DecodeError::corrupt(batch_offset, format!("a message set in which {what}"))
        };
        let ends_early = || corrupt("a message ends early");
        let rest = set.get(start..).unwrap_or_default();
        let offset = i64_at(rest, 0).ok_or_else(ends_early)?;
        let length = i32_at(rest, 8).ok_or_else(ends_early)?;
        let size = usize::try_from(length)
            .map_err(|_| corrupt("a message has a negative length"))?
            + LOG_OVERHEAD;
        let message = rest.get(..size).ok_or_else(ends_early)?;
        let magic = *message.get(MAGIC_AT).ok_or_else(ends_early)? as i8;
        let (least, key_at) = match magic {
            0 => (V0_MIN_BYTES, TIMESTAMP_AT),
            1 => (V1_MIN_BYTES, TIMESTAMP_AT + 8),
            _ => return Err(corrupt("messages of another format are wrapped")),
        };
        if size < least {
            return Err(corrupt("a message is shorter than its header"));
        }
        let timestamp = if magic == 1 {
            i64_at(message, TIMESTAMP_AT).ok_or_else(ends_early)?
        } else {
            -1
        };
        let (key_start, key_len, value_at) =
            field(message, key_at).ok_or_else(|| corrupt("a key has a wrong length"))?;
        let (value_start, value_len, end) =
            field(message, value_at).ok_or_else(|| corrupt("a value has a wrong length"))?;
        if end != size {
            return Err(corrupt("a message's parts do not add up to its length"));
        }
        Ok(Self {
            offset,
            size,
            magic,
            crc: i32_at(message, CRC_AT).ok_or_else(ends_early)? as u32,
            attributes: i16::from(*message.get(ATTRIBUTES_AT).ok_or_else(ends_early)?),
            timestamp,
            key_start: start + key_start,
            key_len,
            value_start: start + value_start,
            value_len,
        })
    }

    pub fn timestamp_type(&self) -> TimestampType {
        match (self.magic, self.attributes & LOG_APPEND_TIME) {
            (0, _) => TimestampType::None,
            (_, 0) => TimestampType::Create,
            _ => TimestampType::LogAppend,
        }
    }

    /// The message as a record, `base` bytes further than it was read.
    pub fn span(&self, base: usize) -> RecordSpan {
        RecordSpan {
            offset: self.offset,
            timestamp: self.timestamp,
            key_start: (base + self.key_start) as u32,
            key_len: self.key_len,
            value_start: (base + self.value_start) as u32,
            value_len: self.value_len,
        }
    }
}

/// A length of four bytes and what it counts: (start, length or -1, end).
fn field(message: &[u8], at: usize) -> Option<(usize, i32, usize)> {
    let len = i32_at(message, at)?;
    let start = at + 4;
    match len {
        -1 => Some((start, -1, start)),
        len => {
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            (end <= message.len()).then_some((start, len, end))
        }
    }
}

/// A message whose value is a compressed message set.
pub(crate) struct Wrapper<'a> {
    pub message: &'a Message,
    pub whole: &'a [u8],
    pub codec: Compression,
    pub options: &'a DecodeOptions,
    /// Records below this offset are skipped.
    pub floor: i64,
}

impl Wrapper<'_> {
    /// Decompresses to the end of `buffer` and adds the spans of what is inside.
    pub fn unwrap_into(
        &self,
        states: &mut Decompressors,
        buffer: &mut Vec<u8>,
        spans: &mut Vec<RecordSpan>,
    ) -> Result<(), DecodeError> {
        let at = self.message.offset;
        let first_byte = buffer.len();
        self.decompress(states, buffer)?;
        let first_span = spans.len();
        let mut start = first_byte;
        while start < buffer.len() {
            let inner = Message::read(buffer, start, at)?;
            self.check(
                &inner,
                buffer
                    .get(start + CRC_FROM..start + inner.size)
                    .unwrap_or_default(),
            )?;
            let mut span = inner.span(0);
            if self.message.timestamp_type() == TimestampType::LogAppend {
                // The broker sets the wrapper's timestamp alone, without touching what is compressed (KIP-32).
                span.timestamp = self.message.timestamp;
            }
            spans.push(span);
            start += inner.size;
        }
        let Some(last) = spans.get(first_span..).and_then(<[_]>::last).copied() else {
            return Err(DecodeError::corrupt(
                at,
                "a compressed message without a message in it",
            ));
        };
        // v1 counts inside from 0, and the wrapper has the last one's offset (KIP-31); v0 has true offsets inside.
        let base = if self.message.magic == 1 {
            at.wrapping_sub(last.offset)
        } else {
            0
        };
        let (mut kept, mut least) = (first_span, i64::MIN);
        for index in first_span..spans.len() {
            let Some(mut span) = spans.get(index).copied() else {
                break;
            };
            span.offset = base.wrapping_add(span.offset);
            if span.offset < least || span.offset > at {
                let what = "the offsets inside a compressed message do not ascend up to its own";
                return Err(DecodeError::corrupt(at, what));
            }
            least = span.offset.saturating_add(1);
            if span.offset >= self.floor {
                if let Some(place) = spans.get_mut(kept) {
                    *place = span;
                }
                kept += 1;
            }
        }
        spans.truncate(kept);
        Ok(())
    }

    fn decompress(
        &self,
        states: &mut Decompressors,
        buffer: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let at = self.message.offset;
        if self.codec == Compression::Zstd {
            let what = format!(
                "a v{} message in zstd, which only v2 batches have",
                self.message.magic
            );
            return Err(DecodeError::unsupported(at, what));
        }
        let Ok(len) = usize::try_from(self.message.value_len) else {
            return Err(DecodeError::corrupt(
                at,
                "a compressed message without a value",
            ));
        };
        let start = self.message.value_start;
        let input = self.whole.get(start..start + len).unwrap_or_default();
        let limit = self.options.max_batch_bytes;
        if self.codec == Compression::Lz4 && self.message.magic == 0 {
            return decompress_with(
                states,
                self.codec,
                &mend_lz4_header(input),
                buffer,
                limit,
                at,
            );
        }
        decompress_with(states, self.codec, input, buffer, limit, at)
    }

    fn check(&self, inner: &Message, counted: &[u8]) -> Result<(), DecodeError> {
        let at = self.message.offset;
        if inner.magic != self.message.magic {
            return Err(DecodeError::corrupt(
                at,
                "a compressed message wraps messages of another format",
            ));
        }
        if Compression::of_attributes(inner.attributes) != Some(Compression::None) {
            return Err(DecodeError::corrupt(
                at,
                "a compressed message inside a compressed message",
            ));
        }
        if self.options.check_crcs {
            check_crc(at, inner.crc, crc::crc32(counted))
        } else {
            Ok(())
        }
    }
}
