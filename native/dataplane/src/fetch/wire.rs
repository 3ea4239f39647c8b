//! The protocol's primitive types, in the two encodings: classic and compact ("flexible", KIP-482).
//! Source: <https://kafka.apache.org/protocol#protocol_types>.

use bytes::Bytes;

/// Why bytes cannot be read; without the name of what they should be, which the caller knows.
pub(crate) type Flaw = String;

/// Appends to a request.
pub(crate) struct Writer {
    pub bytes: Vec<u8>,
    pub flexible: bool,
}

impl Writer {
    pub fn i8(&mut self, value: i8) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i16(&mut self, value: i16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub fn unsigned_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A string whose length has 16 bits even in flexible versions: the header's client id (KIP-482).
    pub fn classic_string(&mut self, value: &str) {
        self.i16(i16::try_from(value.len()).unwrap_or(i16::MAX));
        let end = value.len().min(i16::MAX as usize);
        self.bytes
            .extend_from_slice(value.as_bytes().get(..end).unwrap_or_default());
    }

    pub fn string(&mut self, value: &str) {
        if self.flexible {
            self.unsigned_varint(value.len() as u64 + 1);
            self.bytes.extend_from_slice(value.as_bytes());
        } else {
            self.classic_string(value);
        }
    }

    pub fn array_len(&mut self, len: usize) {
        if self.flexible {
            self.unsigned_varint(len as u64 + 1);
        } else {
            self.i32(i32::try_from(len).unwrap_or(i32::MAX));
        }
    }

    /// The end of a structure: no tagged field.
    pub fn end(&mut self) {
        if self.flexible {
            self.bytes.push(0);
        }
    }
}

/// Reads a response whose bytes are not trusted: no length is believed beyond what is there.
pub(crate) struct Reader<'a> {
    data: &'a Bytes,
    at: usize,
    end: usize,
    pub flexible: bool,
}

impl<'a> Reader<'a> {
    pub fn new(data: &'a Bytes, flexible: bool) -> Self {
        Self {
            data,
            at: 0,
            end: data.len(),
            flexible,
        }
    }

    pub fn remaining(&self) -> usize {
        self.end - self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Flaw> {
        let missing = || {
            format!(
                "it ends early: {count} bytes are missing at byte {}",
                self.at
            )
        };
        if count > self.remaining() {
            return Err(missing());
        }
        let slice = self
            .data
            .get(self.at..self.at + count)
            .ok_or_else(missing)?;
        self.at += count;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let slice = self.take(N)?;
        slice.try_into().map_err(|_| String::from("it ends early"))
    }

    pub fn i16(&mut self) -> Result<i16, Flaw> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Flaw> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, Flaw> {
        self.array().map(i64::from_be_bytes)
    }

    pub fn uuid(&mut self) -> Result<[u8; 16], Flaw> {
        self.array()
    }

    /// At most five bytes, as the protocol has it.
    pub fn unsigned_varint(&mut self) -> Result<u32, Flaw> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array::<1>()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(value)
                    .map_err(|_| format!("a variable-length integer has the value {value}"));
            }
        }
        Err("a variable-length integer does not end".into())
    }

    /// None for null.
    fn length(
        &mut self,
        classic: impl Fn(&mut Self) -> Result<i32, Flaw>,
    ) -> Result<Option<usize>, Flaw> {
        let length = if self.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            i64::from(classic(self)?)
        };
        match length {
            -1 => Ok(None),
            _ => usize::try_from(length)
                .map(Some)
                .map_err(|_| format!("the length {length} at byte {}", self.at)),
        }
    }

    /// The count of an array whose elements take at least `least_bytes` each; null counts as empty.
    pub fn array_len(&mut self, least_bytes: usize) -> Result<usize, Flaw> {
        let count = self.length(Self::i32)?.unwrap_or(0);
        if count > self.remaining() / least_bytes.max(1) {
            return Err(format!(
                "an array of {count} elements in {} bytes at byte {}",
                self.remaining(),
                self.at
            ));
        }
        Ok(count)
    }

    pub fn string(&mut self) -> Result<&'a str, Flaw> {
        let length = self.length(|reader| reader.i16().map(i32::from))?;
        let length = length.ok_or_else(|| format!("a null string at byte {}", self.at))?;
        std::str::from_utf8(self.take(length)?).map_err(|_| "a string that is no UTF-8".into())
    }

    /// A slice of the response, which it keeps alive; empty for null.
    pub fn shared_bytes(&mut self) -> Result<Bytes, Flaw> {
        let length = self.length(Self::i32)?.unwrap_or(0);
        let start = self.at;
        self.take(length)?;
        Ok(self.data.slice(start..self.at))
    }

    /// The tagged fields at the end of a structure: `field` is given each with a reader that ends where it does, and may
    /// leave unread what it does not know.
    pub fn tags(
        &mut self,
        mut field: impl FnMut(u32, &mut Self) -> Result<(), Flaw>,
    ) -> Result<(), Flaw> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            let start = self.at;
            self.take(size)?;
            let mut inside = Reader {
                data: self.data,
                at: start,
                end: self.at,
                flexible: true,
            };
            field(tag, &mut inside)?;
        }
        Ok(())
    }

    pub fn skip_tags(&mut self) -> Result<(), Flaw> {
        self.tags(|_, _| Ok(()))
    }
}
