//! Records as rows for PostgreSQL's COPY, text format: every type is read by the server from its text.
//! Source: <https://www.postgresql.org/docs/current/sql-copy.html>, "Text Format".
//!
//! A record that cannot be a row (no UTF-8, a NUL byte, no JSON where JSON is asked for) is left out and told; it costs no other.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::arrow_columns::Slice;
use crate::record::Chunk;

/// Rows are handed on in blocks of about this many bytes.
const BLOCK_BYTES: usize = 256 * 1024;

/// Where a column's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The record's key.
    Key,
    /// The record's value.
    Value,
    /// A field of the JSON object that the value is, by its path.
    Field(Vec<String>),
    /// The topic's name.
    Topic,
    /// The partition's number.
    Partition,
    /// The record's offset.
    Offset,
    /// The record's timestamp; NULL where it has none.
    Timestamp,
    /// The leader epoch.
    LeaderEpoch,
    /// The headers, as a JSON array of [name, text or null].
    Headers,
    /// The record's place in what is encoded, from 0 on.
    Index,
    /// Whether the value is null.
    Tombstone,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As text; a field that is a JSON text as what it says, any other as it stands in the JSON.
    Text,
    /// For bytea: hexadecimal.
    Bytes,
    /// For json and jsonb: a field as it stands in the JSON; a key or value as it is.
    Json,
    /// A timestamp in milliseconds since 1970 as date and time in UTC.
    Time,
}

/// One column of the rows.
#[derive(Clone, Debug)]
pub struct Column {
    /// Where its value comes from.
    pub source: Source,
    /// How it is written.
    pub form: Form,
    /// Whether NULL makes the record a bad one.
    pub required: bool,
}

/// What encoding gave: blocks of rows, and the records that are no rows, by their index, with the reason.
#[derive(Debug, Default)]
pub struct Rows {
    /// The rows, cut between rows.
    pub blocks: Vec<Vec<u8>>,
    /// How many rows there are.
    pub count: usize,
    /// (index of the record, why).
    pub bad: Vec<(usize, String)>,
}

/// The rows of these records; `skip` says of an index whether it is left out.
pub fn encode(slices: &[Slice], columns: &[Column], skip: impl Fn(usize) -> bool) -> Rows {
    let fields: Vec<&[String]> = columns
        .iter()
        .filter_map(|column| match &column.source {
            Source::Field(path) => Some(path.as_slice()),
            _ => None,
        })
        .collect();
    let mut rows = Rows::default();
    let mut block = Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 4);
    let mut found: Vec<Option<&RawValue>> = Vec::new();
    let mut index = 0;
    for slice in slices {
        for place in slice.start..slice.end {
            let at = index;
            index += 1;
            if skip(at) {
                continue;
            }
            let mark = block.len();
            let record = Record {
                slice,
                chunk: &slice.chunk,
                place,
                index: at,
            };
            match row(&mut block, &record, columns, &fields, &mut found) {
                Ok(()) => rows.count += 1,
                Err(reason) => {
                    block.truncate(mark);
                    rows.bad.push((at, reason));
                }
            }
            if block.len() >= BLOCK_BYTES {
                let next = Vec::with_capacity(block.capacity());
                rows.blocks.push(std::mem::replace(&mut block, next));
            }
        }
    }
    if !block.is_empty() {
        rows.blocks.push(block);
    }
    rows
}

struct Record<'a> {
    slice: &'a Slice,
    chunk: &'a Chunk,
    place: usize,
    index: usize,
}

fn row<'a>(
    out: &mut Vec<u8>,
    record: &Record<'a>,
    columns: &[Column],
    fields: &[&[String]],
    found: &mut Vec<Option<&'a RawValue>>,
) -> Result<(), String> {
    if !fields.is_empty() {
        found.clear();
        found.resize(fields.len(), None);
        if let Some(value) = record.chunk.value(record.place) {
            Picker { fields, found }
                .pick(value)
                .map_err(|error| format!("the value is no JSON object: {error}"))?;
        }
    }
    let mut field = 0;
    for (number, column) in columns.iter().enumerate() {
        if number > 0 {
            out.push(b'\t');
        }
        let picked = if matches!(column.source, Source::Field(_)) {
            field += 1;
            found.get(field - 1).copied().flatten()
        } else {
            None
        };
        let is_null = cell(out, record, column, picked)
            .map_err(|reason| format!("column {}: {reason}", number + 1))?;
        if is_null {
            if column.required {
                return Err(format!(
                    "column {}: nothing for a column that is NOT NULL",
                    number + 1
                ));
            }
            out.extend_from_slice(b"\\N");
        }
    }
    out.push(b'\n');
    Ok(())
}

/// Writes one value; whether it is NULL, and nothing was written.
fn cell(
    out: &mut Vec<u8>,
    record: &Record<'_>,
    column: &Column,
    picked: Option<&RawValue>,
) -> Result<bool, String> {
    let (chunk, place) = (record.chunk, record.place);
    match &column.source {
        Source::Key => return bytes(out, chunk.key(place), column.form),
        Source::Value => return bytes(out, chunk.value(place), column.form),
        Source::Field(_) => return json(out, picked, column.form),
        Source::Topic => escape(out, record.slice.topic.as_bytes()),
        Source::Partition => number(out, i64::from(record.slice.partition)),
        Source::Offset => number(out, chunk.offset(place)),
        Source::Timestamp => {
            let timestamp_ms = chunk.timestamp(place);
            if timestamp_ms < 0 {
                return Ok(true);
            }
            match column.form {
                Form::Time => time(out, timestamp_ms),
                _ => number(out, timestamp_ms),
            }
        }
        Source::LeaderEpoch => number(out, i64::from(chunk.leader_epoch(place))),
        Source::Headers => headers(out, record)?,
        Source::Index => number(out, i64::try_from(record.index).unwrap_or(i64::MAX)),
        Source::Tombstone => out.push(if chunk.value(place).is_none() {
            b't'
        } else {
            b'f'
        }),
    }
    Ok(false)
}

fn bytes(out: &mut Vec<u8>, value: Option<&[u8]>, form: Form) -> Result<bool, String> {
    let Some(value) = value else {
        return Ok(true);
    };
    if form == Form::Bytes {
        out.extend_from_slice(b"\\\\x");
        out.reserve(value.len() * 2);
        for byte in value {
            for nibble in [byte >> 4, byte & 15] {
                out.push(if nibble < 10 {
                    b'0' + nibble
                } else {
                    b'a' + nibble - 10
                });
            }
        }
        return Ok(false);
    }
    checked(out, value)?;
    Ok(false)
}

fn checked(out: &mut Vec<u8>, value: &[u8]) -> Result<(), String> {
    if let Err(error) = std::str::from_utf8(value) {
        return Err(format!("no UTF-8 from byte {} on", error.valid_up_to()));
    }
    if let Some(at) = value.iter().position(|&byte| byte == 0) {
        return Err(format!(
            "a NUL byte at {at}, which PostgreSQL's texts cannot have"
        ));
    }
    escape(out, value);
    Ok(())
}

/// What the text format writes with a backslash.
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    let mut done = 0;
    for (at, &byte) in value.iter().enumerate() {
        let letter = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => continue,
        };
        out.extend_from_slice(value.get(done..at).unwrap_or_default());
        out.extend_from_slice(&[b'\\', letter]);
        done = at + 1;
    }
    out.extend_from_slice(value.get(done..).unwrap_or_default());
}

fn json(out: &mut Vec<u8>, picked: Option<&RawValue>, form: Form) -> Result<bool, String> {
    let Some(raw) = picked.map(RawValue::get).filter(|raw| *raw != "null") else {
        return Ok(true);
    };
    if form != Form::Json && raw.starts_with('"') {
        let text: Cow<'_, str> = text_of(raw)?;
        if form == Form::Bytes {
            return bytes(out, Some(text.as_bytes()), form);
        }
        checked(out, text.as_bytes())?;
    } else {
        checked(out, raw.as_bytes())?;
    }
    Ok(false)
}

/// The text that a JSON text says: borrowed where it has no escapes.
fn text_of(raw: &str) -> Result<Cow<'_, str>, String> {
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    if inner.contains('\\') {
        let text: String = serde_json::from_str(raw).map_err(|error| error.to_string())?;
        Ok(Cow::Owned(text))
    } else {
        Ok(Cow::Borrowed(inner))
    }
}

fn headers(out: &mut Vec<u8>, record: &Record<'_>) -> Result<(), String> {
    let pairs: Vec<(Cow<'_, str>, Option<Cow<'_, str>>)> = record
        .chunk
        .headers(record.place)
        .map(|(name, value)| {
            (
                String::from_utf8_lossy(name),
                value.map(String::from_utf8_lossy),
            )
        })
        .collect();
    let text = serde_json::to_string(&pairs).map_err(|error| error.to_string())?;
    escape(out, text.as_bytes());
    Ok(())
}

fn number(out: &mut Vec<u8>, number: i64) {
    let mut buffer = itoa::Buffer::new();
    out.extend_from_slice(buffer.format(number).as_bytes());
}

/// 2024-02-29 12:34:56.789+00. Source of the calendar: "chrono-Compatible Low-Level Date Algorithms", days_to_civil.
fn time(out: &mut Vec<u8>, timestamp_ms: i64) {
    let (days, ms) = (
        timestamp_ms.div_euclid(86_400_000),
        timestamp_ms.rem_euclid(86_400_000),
    );
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, milli) = (ms / 1_000, ms % 1_000);
    let mut text = String::with_capacity(32);
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{milli:03}+00",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    );
    out.extend_from_slice(text.as_bytes());
}

/// Finds the fields that are wanted in one pass over the JSON text, and leaves them as they stand there.
struct Picker<'p, 'a> {
    fields: &'p [&'p [String]],
    found: &'p mut Vec<Option<&'a RawValue>>,
}

impl<'a> Picker<'_, 'a> {
    fn pick(self, value: &'a [u8]) -> serde_json::Result<()> {
        let mut deserializer = serde_json::Deserializer::from_slice(value);
        deserializer.deserialize_map(self)?;
        deserializer.end()
    }
}

impl<'a> Visitor<'a> for Picker<'_, 'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key::<Name<'a>>()? {
            let wanted = |path: &&[String]| path.first().is_some_and(|first| *first == name.0);
            if !self.fields.iter().any(wanted) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw: &'a RawValue = map.next_value()?;
            for (slot, path) in self.found.iter_mut().zip(self.fields) {
                match path {
                    [only] if *only == name.0 => *slot = Some(raw),
                    [first, rest @ ..] if !rest.is_empty() && *first == name.0 => {
                        *slot = inner(raw, rest);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// A field further down; none where the way there is no object.
fn inner<'a>(raw: &'a RawValue, path: &[String]) -> Option<&'a RawValue> {
    let mut found = vec![None];
    let picker = Picker {
        fields: &[path],
        found: &mut found,
    };
    picker.pick(raw.get().as_bytes()).ok()?;
    found.into_iter().next().flatten()
}

/// A field's name: borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(text(|out| time(out, 0)), "1970-01-01 00:00:00.000+00");
        assert_eq!(
            text(|out| time(out, 951_782_400_000)),
            "2000-02-29 00:00:00.000+00"
        );
        assert_eq!(
            text(|out| time(out, 1_735_689_599_999)),
            "2024-12-31 23:59:59.999+00"
        );
        assert_eq!(
            text(|out| time(out, 4_107_542_400_000)),
            "2100-03-01 00:00:00.000+00"
        );
    }

    #[test]
    fn what_separates_rows_is_escaped() {
        assert_eq!(
            text(|out| escape(out, b"a\tb\\c\nd\r")),
            "a\\tb\\\\c\\nd\\r"
        );
    }
}
