//! Codecs of record batches, always with a bound: what is decompressed never exceeds the limit given, and no more is
//! reserved than the input or the output so far justifies. Source: KIP-110 (zstd), KIP-31, KAFKA-3160 (lz4 in v0).

use std::io::{BufRead, Write};

use flate2::{Decompress, FlushDecompress, Status};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use twox_hash::XxHash32;
use zstd::zstd_safe::{self, DCtx, InBuffer, OutBuffer, ResetDirective};

/// A codec, by its number in the attributes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// Records stand as they are.
    None = 0,
    /// gzip.
    Gzip = 1,
    /// Snappy, raw or in the framing of Java's xerial library.
    Snappy = 2,
    /// LZ4 frames.
    Lz4 = 3,
    /// Zstandard; v2 only (KIP-110).
    Zstd = 4,
}

impl Compression {
    /// Every codec, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec that bits 0-2 of the attributes name; None for those not given out yet.
    pub fn of_attributes(attributes: i16) -> Option<Self> {
        Self::ALL
            .get(usize::from(attributes as u16 & 0x07))
            .copied()
    }

    /// The codec of a name as `compression.type` has it.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Why bytes could not be decompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecompressError {
    /// They are not what the codec writes.
    Corrupt(String),
    /// They decompress to more than the limit.
    TooLarge,
}

/// Output space to begin with: a few times the input, as text compresses; more only as it fills.
const FIRST_RATIO: usize = 4;
const LEAST_STEP_BYTES: usize = 4096;
/// A snappy element of 3 bytes stands for at most 64; a declared length beyond that ratio is a lie.
const SNAPPY_MAX_RATIO: usize = 22;
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
/// The magic, then two version numbers.
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
const GZIP_WINDOW_BITS: u8 = 15;

/// Decompression states, made when first needed and used again for the next batch. One per thread.
#[derive(Default)]
pub struct Decompressors {
    gzip: Option<Decompress>,
    zstd: Option<DCtx<'static>>,
    snappy: snap::raw::Decoder,
}

impl std::fmt::Debug for Decompressors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Decompressors")
            .finish_non_exhaustive()
    }
}

impl Decompressors {
    /// Appends to `out` what `input` decompresses to, at most `limit` bytes. On an error `out` may have grown.
    ///
    /// # Errors
    /// `Corrupt` and `TooLarge`, see there.
    pub fn decompress(
        &mut self,
        codec: Compression,
        input: &[u8],
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(), DecompressError> {
        let mut output = Output {
            start: out.len(),
            out,
            limit,
        };
        match codec {
            Compression::None => output.extend(input),
            Compression::Gzip => self.gzip(input, &mut output),
            Compression::Snappy => self.snappy(input, &mut output),
            Compression::Lz4 => lz4(input, &mut output),
            Compression::Zstd => self.zstd(input, &mut output),
        }
    }

    /// All members of a gzip file, as Java's reader takes them; what follows the last is ignored.
    fn gzip(&mut self, input: &[u8], output: &mut Output<'_>) -> Result<(), DecompressError> {
        let state = self
            .gzip
            .get_or_insert_with(|| Decompress::new_gzip(GZIP_WINDOW_BITS));
        let mut rest = input;
        loop {
            state.reset(true);
            loop {
                output.make_room(input.len())?;
                let (taken, filled) = (state.total_in(), output.out.len());
                let status = state
                    .decompress_vec(rest, output.out, FlushDecompress::None)
                    .map_err(|error| DecompressError::Corrupt(format!("gzip: {error}")))?;
                rest = rest
                    .get((state.total_in() - taken) as usize..)
                    .unwrap_or_default();
                output.check()?;
                if status == Status::StreamEnd {
                    break;
                }
                if rest.is_empty() && output.out.len() == filled {
                    return Err(DecompressError::Corrupt("gzip: the data ends early".into()));
                }
            }
            if !rest.starts_with(b"\x1f\x8b") {
                return Ok(());
            }
        }
    }

    fn snappy(&mut self, input: &[u8], output: &mut Output<'_>) -> Result<(), DecompressError> {
        if !input.starts_with(XERIAL_MAGIC) {
            return self.snappy_block(input, output);
        }
        let mut rest = input
            .get(XERIAL_HEADER_BYTES..)
            .ok_or_else(snappy_ends_early)?;
        while !rest.is_empty() {
            let (size, after) = rest
                .split_first_chunk::<4>()
                .ok_or_else(snappy_ends_early)?;
            let size = u32::from_be_bytes(*size) as usize;
            let block = after.get(..size).ok_or_else(snappy_ends_early)?;
            self.snappy_block(block, output)?;
            rest = after.get(size..).unwrap_or_default();
        }
        Ok(())
    }

    fn snappy_block(
        &mut self,
        block: &[u8],
        output: &mut Output<'_>,
    ) -> Result<(), DecompressError> {
        let wrong = |error: snap::Error| DecompressError::Corrupt(format!("snappy: {error}"));
        let size = snap::raw::decompress_len(block).map_err(wrong)?;
        if size > output.left() {
            return Err(DecompressError::TooLarge);
        }
        if size > block.len().saturating_mul(SNAPPY_MAX_RATIO) {
            return Err(DecompressError::Corrupt(format!(
                "snappy: {} bytes cannot hold {size}",
                block.len()
            )));
        }
        let start = output.out.len();
        output.out.resize(start + size, 0);
        let space = output.out.get_mut(start..).unwrap_or_default();
        self.snappy
            .decompress(block, space)
            .map_err(wrong)
            .map(|_| ())
    }

    fn zstd(&mut self, input: &[u8], output: &mut Output<'_>) -> Result<(), DecompressError> {
        let wrong =
            |code| DecompressError::Corrupt(format!("zstd: {}", zstd_safe::get_error_name(code)));
        let context = self.zstd.get_or_insert_with(DCtx::create);
        context.reset(ResetDirective::SessionOnly).map_err(wrong)?;
        let mut hint = input.len();
        if let Ok(Some(size)) = zstd_safe::get_frame_content_size(input) {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > output.limit {
                return Err(DecompressError::TooLarge);
            }
            // One step where the declared size is plausible; otherwise space grows as it fills.
            hint = size.min(input.len().saturating_mul(32)) / FIRST_RATIO + 1;
        }
        let mut source = InBuffer::around(input);
        loop {
            output.make_room(hint)?;
            let filled = output.out.len();
            let taken = source.pos();
            let missing = {
                let mut target = OutBuffer::around_pos(output.out, filled);
                context
                    .decompress_stream(&mut target, &mut source)
                    .map_err(wrong)?
            };
            output.check()?;
            if source.pos() == input.len() {
                if missing == 0 {
                    return Ok(());
                }
                if output.out.len() == filled && source.pos() == taken {
                    return Err(DecompressError::Corrupt("zstd: the data ends early".into()));
                }
            }
        }
    }
}

fn snappy_ends_early() -> DecompressError {
    DecompressError::Corrupt("snappy: the data ends early".into())
}

/// One LZ4 frame, as Java's reader takes it.
fn lz4(input: &[u8], output: &mut Output<'_>) -> Result<(), DecompressError> {
    let mut decoder = FrameDecoder::new(input);
    loop {
        let block = match decoder.fill_buf() {
            Ok(block) => block,
            Err(error) => return Err(DecompressError::Corrupt(format!("lz4: {error}"))),
        };
        if block.is_empty() {
            return Ok(());
        }
        let size = block.len();
        output.make_room(input.len())?;
        output.extend(block)?;
        decoder.consume(size);
    }
}

/// The same bytes with the header checksum that the frame format asks for.
///
/// Until 0.10 Kafka counted the frame's magic number into that checksum, so that no other reader accepts v0's LZ4; like
/// Java's, this one does not hold it against them. Source: KAFKA-3160, the LZ4 frame format description.
pub fn mend_lz4_header(input: &[u8]) -> Vec<u8> {
    let mut mended = input.to_vec();
    let Some(&flags) = input.get(4) else {
        return mended;
    };
    let (has_size, has_dictionary) = (flags & 0x08 != 0, flags & 0x01 != 0);
    let checksum_at = 6 + if has_size { 8 } else { 0 } + if has_dictionary { 4 } else { 0 };
    if let (Some(descriptor), Some(slot)) = (input.get(4..checksum_at), mended.get_mut(checksum_at))
    {
        *slot = (XxHash32::oneshot(0, descriptor) >> 8) as u8;
    }
    mended
}

/// A vector that grows by what fills it, up to a limit.
struct Output<'a> {
    start: usize,
    out: &'a mut Vec<u8>,
    limit: usize,
}

impl Output<'_> {
    fn left(&self) -> usize {
        self.limit.saturating_sub(self.out.len() - self.start)
    }

    /// Sees to some spare capacity: at first a few times `input_bytes`, later as much again as there is. One byte beyond
    /// the limit may be filled, so that what ends exactly at the limit is told from what does not.
    fn make_room(&mut self, input_bytes: usize) -> Result<(), DecompressError> {
        if self.out.capacity() > self.out.len() {
            return Ok(());
        }
        let first = input_bytes.saturating_mul(FIRST_RATIO);
        let produced = self.out.len() - self.start;
        let step = if produced == 0 { first } else { produced }.max(LEAST_STEP_BYTES);
        let step = step.min(self.left() + 1);
        if self.start == 0 {
            self.out.reserve_exact(step);
        } else {
            // Batches before this one stand in the same vector: growing by a factor moves them seldom.
            self.out.reserve(step);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), DecompressError> {
        if self.out.len() - self.start > self.limit {
            Err(DecompressError::TooLarge)
        } else {
            Ok(())
        }
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), DecompressError> {
        if bytes.len() > self.left() {
            return Err(DecompressError::TooLarge);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// Compresses as Java's client does, so that Java's client reads it: xerial framing for snappy, independent blocks of 64
/// KiB for lz4 (its reader refuses linked ones). `level` concerns gzip (0-9, default 6) and zstd (default 3).
///
/// # Errors
/// What the codec's library reports; a level out of range among it.
pub fn compress(codec: Compression, level: Option<i32>, input: &[u8]) -> std::io::Result<Vec<u8>> {
    match codec {
        Compression::None => Ok(input.to_vec()),
        Compression::Gzip => {
            let level = level.map_or(6, |level| level.clamp(0, 9)) as u32;
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
            encoder.write_all(input)?;
            encoder.finish()
        }
        Compression::Snappy => {
            let mut encoder = snap::raw::Encoder::new();
            let mut out = [XERIAL_MAGIC, &1_u32.to_be_bytes(), &1_u32.to_be_bytes()].concat();
            for block in input.chunks(XERIAL_BLOCK_BYTES) {
                let packed = encoder.compress_vec(block)?;
                out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                out.extend_from_slice(&packed);
            }
            Ok(out)
        }
        Compression::Lz4 => {
            let info = FrameInfo::new()
                .block_mode(BlockMode::Independent)
                .block_size(BlockSize::Max64KB);
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(input)?;
            encoder.finish().map_err(std::io::Error::other)
        }
        Compression::Zstd => {
            zstd::bulk::compress(input, level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL))
        }
    }
}
