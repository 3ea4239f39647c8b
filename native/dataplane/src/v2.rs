//! The records of a v2 batch: the loop that every record goes through.

use crate::batch::BatchHeader;
use crate::record::RecordSpan;
use crate::varint::{Cursor, Flaw};

/// The least size of a record: six lengths, counts and deltas of one byte each, and its attributes.
pub(crate) const RECORD_MIN_BYTES: usize = 7;

/// Reads the records of a v2 batch that stand in `data` from `start` on. Spans point `base` bytes further than `data`.
pub(crate) fn read_records(
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
