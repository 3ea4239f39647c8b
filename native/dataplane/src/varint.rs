//! Variable-length integers as record batches use them: little groups of seven bits first, zigzag for the sign.
//! Source: <https://protobuf.dev/programming-guides/encoding>, KIP-98.

/// What is wrong with the bytes of a batch, without its offset, which the caller knows.
pub(crate) type Flaw = &'static str;

/// A reading position in bytes that are not trusted.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

const ENDS_EARLY: Flaw = "the batch ends in the middle of a record";

impl<'a> Cursor<'a> {
    #[inline]
    pub fn new(data: &'a [u8], at: usize) -> Self {
        Self { data, at }
    }

    #[inline]
    pub fn at(&self) -> usize {
        self.at
    }

    #[inline]
    pub fn remaining(&self) -> usize {
        self.data.len().saturating_sub(self.at)
    }

    #[inline]
    pub fn skip(&mut self, count: usize) -> Result<(), Flaw> {
        if count > self.remaining() {
            return Err(ENDS_EARLY);
        }
        self.at += count;
        Ok(())
    }

    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Flaw> {
        let start = self.at;
        self.skip(count)?;
        self.data.get(start..self.at).ok_or(ENDS_EARLY)
    }

    /// An unsigned varint of at most `max_bytes` bytes. One byte is by far the most frequent.
    #[inline]
    fn unsigned(&mut self, max_bytes: usize) -> Result<u64, Flaw> {
        let Some(&first) = self.data.get(self.at) else {
            return Err(ENDS_EARLY);
        };
        if first < 0x80 {
            self.at += 1;
            return Ok(u64::from(first));
        }
        if let Some(&second) = self.data.get(self.at + 1)
            && second < 0x80
        {
            self.at += 2;
            return Ok(u64::from(first & 0x7f) | u64::from(second) << 7);
        }
        self.unsigned_slow(max_bytes)
    }

    fn unsigned_slow(&mut self, max_bytes: usize) -> Result<u64, Flaw> {
        let mut value = 0_u64;
        for index in 0..max_bytes {
            let Some(&byte) = self.data.get(self.at + index) else {
                return Err(ENDS_EARLY);
            };
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err("a variable-length integer does not end")
    }

    /// A signed 32-bit integer, of at most five bytes.
    #[inline]
    pub fn varint(&mut self) -> Result<i32, Flaw> {
        let raw = self.unsigned(5)? as u32;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// A signed 64-bit integer, of at most ten bytes.
    #[inline]
    pub fn varlong(&mut self) -> Result<i64, Flaw> {
        let raw = self.unsigned(10)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A length and that many bytes, which are passed over: (start, length), length -1 for null.
    #[inline]
    pub fn nullable_span(&mut self) -> Result<(u32, i32), Flaw> {
        let len = self.varint()?;
        let start = self.at as u32;
        if len >= 0 {
            self.skip(len as usize)?;
        } else if len != -1 {
            return Err("a key or value has a negative length");
        }
        Ok((start, len))
    }

    pub fn header_key(&mut self) -> Result<&'a [u8], Flaw> {
        let len = self.varint()?;
        self.take(usize::try_from(len).map_err(|_| "a header key has a negative length")?)
    }

    pub fn header_value(&mut self) -> Result<Option<&'a [u8]>, Flaw> {
        match self.varint()? {
            -1 => Ok(None),
            len => {
                let len =
                    usize::try_from(len).map_err(|_| "a header value has a negative length")?;
                self.take(len).map(Some)
            }
        }
    }
}

/// Appends a signed 32-bit integer, zigzag.
pub(crate) fn put_varint(out: &mut Vec<u8>, value: i32) {
    put_unsigned(out, u64::from(((value << 1) ^ (value >> 31)) as u32));
}

/// Appends a signed 64-bit integer, zigzag.
pub(crate) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes a signed 64-bit integer takes (and a 32-bit one of the same value).
pub(crate) fn varlong_size(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_comes_back() {
        let mut values = vec![
            0,
            1,
            -1,
            i64::MIN,
            i64::MAX,
            i64::from(i32::MIN),
            i64::from(i32::MAX),
        ];
        values.extend((0..63).flat_map(|bit| [1_i64 << bit, -(1_i64 << bit), (1_i64 << bit) - 1]));
        for value in values {
            let mut out = Vec::new();
            put_varlong(&mut out, value);
            assert_eq!(out.len(), varlong_size(value));
            assert_eq!(Cursor::new(&out, 0).varlong(), Ok(value));
            if let Ok(small) = i32::try_from(value) {
                let mut short = Vec::new();
                put_varint(&mut short, small);
                assert_eq!(short, out);
                assert_eq!(Cursor::new(&out, 0).varint(), Ok(small));
            }
        }
    }

    #[test]
    fn an_integer_that_does_not_end_is_refused() {
        assert!(Cursor::new(&[0x80; 5], 0).varint().is_err());
        assert!(Cursor::new(&[0xff; 16], 0).varint().is_err());
        assert!(Cursor::new(&[0xff; 16], 0).varlong().is_err());
        assert!(Cursor::new(&[], 0).varint().is_err());
        assert!(Cursor::new(&[0x80], 0).varint().is_err());
    }
}
