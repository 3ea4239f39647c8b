//! Frames: a length of four bytes, then that many. Source: <https://kafka.apache.org/protocol#protocol_common>.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

/// Frames below this size are allocated as they come; larger ones reuse the memory of those that were dropped.
const POOLED_FROM_BYTES: usize = 32 * 1024;
/// What a frame of a large declared length gets to begin with; it doubles as bytes really arrive.
const FIRST_BYTES: usize = 64 * 1024;
/// The pool's bound: so many buffers, and so many bytes in all of them.
const POOL_BUFFERS: usize = 6;
const POOL_BYTES: usize = 64 << 20;
/// A buffer of more than so many times a frame's size is not given to it: whoever keeps a record keeps the buffer.
const POOL_MAX_RATIO: usize = 4;
/// After so many small frames in a row, the traffic that filled the pool is over.
const SMALL_FRAMES_UNTIL_TRIM: usize = 16;
/// A response begins with its correlation id.
const MIN_FRAME_BYTES: i32 = 4;

/// Why the bytes of a peer are no frames.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length below zero.
    #[error("it sent a frame with the negative length {0}")]
    Negative(i32),
    /// A length too small to hold a correlation id.
    #[error("it sent a frame of {0} bytes, too short to be a response")]
    TooShort(i32),
    /// A length beyond the limit.
    #[error("it sent a frame of {length} bytes, above the limit of {limit} bytes")]
    Oversized {
        /// What was declared.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The first bytes are those of an HTTP response.
    #[error("the port speaks HTTP, not Kafka")]
    Http,
    /// The first bytes are those of a TLS record.
    #[error("the port speaks TLS; set security.protocol=SSL (or SASL_SSL)")]
    Tls,
    /// The first bytes are text.
    #[error("the port does not speak Kafka: its first bytes are {0:?}")]
    Text(String),
}

/// Memory of dropped frames, to be used again: in steady state no page is faulted in, none returned.
#[derive(Debug, Default)]
pub struct FramePool {
    free: Mutex<Vec<Vec<u8>>>,
}

impl FramePool {
    fn take(&self, length: usize) -> Vec<u8> {
        if length < POOLED_FROM_BYTES {
            return Vec::new();
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = length.saturating_mul(POOL_MAX_RATIO);
        let fit = (0..free.len())
            .filter(|&index| free.get(index).is_some_and(|buffer| buffer.len() <= limit))
            .max_by_key(|&index| free.get(index).map(Vec::len));
        fit.map(|index| free.swap_remove(index)).unwrap_or_default()
    }

    fn give(&self, buffer: Vec<u8>) {
        if buffer.len() < POOLED_FROM_BYTES {
            return;
        }
        // Without waiting: in a forked child the lock may be held by a thread that is not there.
        let Ok(mut free) = self.free.try_lock() else {
            return;
        };
        let held: usize = free.iter().map(Vec::len).sum();
        if free.len() < POOL_BUFFERS && held + buffer.len() <= POOL_BYTES {
            free.push(buffer);
        }
    }

    fn trim(&self) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// A frame's memory, which goes back to the pool with the last slice of it.
struct Pooled {
    buffer: Vec<u8>,
    length: usize,
    pool: Weak<FramePool>,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.give(std::mem::take(&mut self.buffer));
        }
    }
}

/// Puts frames together from bytes as they arrive.
///
/// A buffer's length is the extent that was ever written; recycled buffers keep it, so that only growth costs a memset.
#[derive(Debug)]
pub struct FrameReader {
    max_frame_bytes: usize,
    pool: Arc<FramePool>,
    prefix: [u8; 4],
    prefix_filled: usize,
    /// Of the frame in the making; None while its prefix is not whole.
    length: Option<usize>,
    body: Vec<u8>,
    filled: usize,
    is_first: bool,
    small_frames: usize,
}

impl FrameReader {
    /// A reader at the beginning of a connection.
    pub fn new(max_frame_bytes: usize) -> Self {
        Self {
            max_frame_bytes,
            pool: Arc::default(),
            prefix: [0; 4],
            prefix_filled: 0,
            length: None,
            body: Vec::new(),
            filled: 0,
            is_first: true,
            small_frames: 0,
        }
    }

    /// Where the next bytes go; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        let Some(length) = self.length else {
            return self
                .prefix
                .get_mut(self.prefix_filled..)
                .unwrap_or_default();
        };
        if self.filled == self.body.len() {
            let grown = self
                .body
                .len()
                .saturating_mul(2)
                .max(FIRST_BYTES)
                .min(length);
            self.body.reserve_exact(grown - self.body.len());
            self.body.resize(grown, 0);
        }
        let end = self.body.len().min(length);
        self.body.get_mut(self.filled..end).unwrap_or_default()
    }

    /// Takes note that `count` bytes were put into `space`; the frame, without its prefix, if it is whole now.
    ///
    /// # Errors
    /// See [`FrameError`]; the connection is of no use then.
    pub fn advance(&mut self, count: usize) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.length else {
            self.prefix_filled += count;
            if self.prefix_filled == self.prefix.len() {
                self.begin()?;
            }
            return Ok(None);
        };
        self.filled += count;
        if self.filled < length {
            return Ok(None);
        }
        let buffer = std::mem::take(&mut self.body);
        (self.length, self.filled, self.prefix_filled) = (None, 0, 0);
        if length < POOLED_FROM_BYTES {
            self.small_frames += 1;
            if self.small_frames >= SMALL_FRAMES_UNTIL_TRIM {
                self.pool.trim();
            }
            return Ok(Some(Bytes::from(buffer)));
        }
        self.small_frames = 0;
        let pool = Arc::downgrade(&self.pool);
        Ok(Some(Bytes::from_owner(Pooled {
            buffer,
            length,
            pool,
        })))
    }

    /// True if the peer has sent nothing yet.
    pub fn is_untouched(&self) -> bool {
        self.is_first && self.prefix_filled == 0
    }

    /// What is missing, for people, if the connection ends now; None between two frames.
    pub fn unfinished(&self) -> Option<String> {
        match self.length {
            Some(length) => Some(format!("after {} of a frame's {length} bytes", self.filled)),
            None if self.prefix_filled > 0 => Some(format!(
                "after {} of a length's 4 bytes",
                self.prefix_filled
            )),
            None => None,
        }
    }

    fn begin(&mut self) -> Result<(), FrameError> {
        if std::mem::take(&mut self.is_first) {
            recognise(self.prefix)?;
        }
        let declared = i32::from_be_bytes(self.prefix);
        let length = usize::try_from(declared).map_err(|_| FrameError::Negative(declared))?;
        if declared < MIN_FRAME_BYTES {
            return Err(FrameError::TooShort(declared));
        }
        if length > self.max_frame_bytes {
            return Err(FrameError::Oversized {
                length,
                limit: self.max_frame_bytes,
            });
        }
        self.body = self.pool.take(length);
        self.length = Some(length);
        Ok(())
    }
}

/// Protocols that people reach by mistake. Their first bytes, read as a length, are between 350 MB and 2 GB.
fn recognise(first: [u8; 4]) -> Result<(), FrameError> {
    match first {
        [b'H', b'T', b'T', b'P'] => Err(FrameError::Http),
        [0x15 | 0x16, 0x03, ..] => Err(FrameError::Tls),
        _ if first.iter().all(|byte| byte.is_ascii_graphic()) => Err(FrameError::Text(
            String::from_utf8_lossy(&first).into_owned(),
        )),
        _ => Ok(()),
    }
}

/// The fuzz target `frame`: whatever the bytes and however they are sliced, frames or an error, and no more memory than
/// a small multiple of what arrived.
pub fn fuzz(data: &[u8]) {
    let Some((&slice, mut rest)) = data.split_first() else {
        return;
    };
    let mut reader = FrameReader::new(1 << 30);
    while !rest.is_empty() {
        let space = reader.space();
        let count = space.len().min(rest.len()).min(usize::from(slice).max(1));
        let (now, later) = rest.split_at(count);
        if let Some(target) = space.get_mut(..count) {
            target.copy_from_slice(now);
        }
        rest = later;
        assert!(reader.body.capacity() <= 2 * data.len() + FIRST_BYTES);
        if reader.advance(count).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(
        reader: &mut FrameReader,
        bytes: &[u8],
        slice: usize,
    ) -> Result<Vec<Bytes>, FrameError> {
        let mut frames = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = reader.space();
            let count = space.len().min(rest.len()).min(slice);
            assert!(count > 0);
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            frames.extend(reader.advance(count)?);
        }
        Ok(frames)
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes(), body].concat()
    }

    #[test]
    fn frames_come_whole_however_they_are_sliced() {
        let bodies = [
            vec![1; 4],
            vec![2; 100],
            vec![3; 70_000],
            vec![4; 500_000],
            vec![5; 40_000],
        ];
        let stream: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
        for slice in [1, 3, 4, 5, 4096, usize::MAX] {
            let mut reader = FrameReader::new(1 << 20);
            assert_eq!(feed(&mut reader, &stream, slice).unwrap(), bodies);
            assert_eq!(reader.unfinished(), None);
        }
    }

    #[test]
    fn memory_is_used_again_and_shrinks_to_the_frame() {
        let mut reader = FrameReader::new(1 << 30);
        let first = feed(&mut reader, &framed(&[7; 200_000]), usize::MAX)
            .unwrap()
            .remove(0);
        let address = first.as_ptr();
        drop(first);
        let second = feed(&mut reader, &framed(&[8; 150_000]), usize::MAX)
            .unwrap()
            .remove(0);
        assert_eq!(second.as_ptr(), address);
        assert_eq!(second, vec![8; 150_000]);
        drop(second);
        let small = feed(&mut reader, &framed(&[9; 33_000]), usize::MAX)
            .unwrap()
            .remove(0);
        assert_ne!(
            small.as_ptr(),
            address,
            "a small frame does not pin a large buffer"
        );
        for _ in 0..SMALL_FRAMES_UNTIL_TRIM {
            feed(&mut reader, &framed(&[1; 4]), usize::MAX).unwrap();
        }
        assert!(reader.pool.free.lock().unwrap().is_empty());
    }

    #[test]
    fn what_comes_back_after_the_trim_is_not_kept_for_ever() {
        let mut reader = FrameReader::new(1 << 30);
        let large = feed(&mut reader, &framed(&[7; 200_000]), usize::MAX).unwrap();
        for _ in 0..SMALL_FRAMES_UNTIL_TRIM {
            feed(&mut reader, &framed(&[1; 4]), usize::MAX).unwrap();
        }
        drop(large);
        feed(&mut reader, &framed(&[1; 4]), usize::MAX).unwrap();
        assert!(reader.pool.free.lock().unwrap().is_empty());
    }

    #[test]
    fn a_frame_can_be_dropped_although_the_pool_stays_locked() {
        let mut reader = FrameReader::new(1 << 30);
        let frames = feed(&mut reader, &framed(&[7; 200_000]), usize::MAX).unwrap();
        let pool = Arc::clone(&reader.pool);
        let _locked_for_ever_as_in_a_forked_child = pool.free.lock().unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(frames);
            done.send(())
        });
        assert!(
            is_done
                .recv_timeout(std::time::Duration::from_secs(20))
                .is_ok()
        );
    }

    #[test]
    fn a_declared_length_reserves_nothing() {
        let mut reader = FrameReader::new(1 << 30);
        feed(&mut reader, &(1_u32 << 30).to_be_bytes(), 4).unwrap();
        feed(&mut reader, &[0; 1000], 1000).unwrap();
        assert!(reader.body.capacity() <= FIRST_BYTES);
        assert_eq!(
            reader.unfinished().unwrap(),
            "after 1000 of a frame's 1073741824 bytes"
        );
    }

    #[test]
    fn lengths_that_cannot_be_are_named() {
        let error = |bytes: &[u8]| feed(&mut FrameReader::new(1000), bytes, 4).unwrap_err();
        assert_eq!(error(&(-5_i32).to_be_bytes()), FrameError::Negative(-5));
        assert_eq!(error(&3_u32.to_be_bytes()), FrameError::TooShort(3));
        assert_eq!(
            error(&1001_u32.to_be_bytes()),
            FrameError::Oversized {
                length: 1001,
                limit: 1000
            }
        );
        assert_eq!(error(b"HTTP/1.1 400 Bad Request"), FrameError::Http);
        assert_eq!(error(&[0x15, 3, 1, 0, 2]), FrameError::Tls);
        assert_eq!(error(&[0x16, 3, 3, 0, 2]), FrameError::Tls);
        assert_eq!(error(b"SSH-2.0"), FrameError::Text("SSH-".into()));
        let late = [framed(&[0; 4]), b"HTTP".to_vec()].concat();
        assert!(
            matches!(error(&late), FrameError::Oversized { .. }),
            "only the first bytes tell the protocol"
        );
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut seed = 7_u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..200)
                .map(|_| {
                    seed = seed
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let byte = (seed >> 56) as u8;
                    if byte > 100 { 0 } else { byte }
                })
                .collect();
            fuzz(&bytes);
        }
    }
}
