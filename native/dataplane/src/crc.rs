//! The two checksums of Kafka's log.

use crc_fast::CrcAlgorithm;

/// CRC-32C (Castagnoli), of v2 batches, by the processor's wide carry-less multiplication
/// where it has one, which takes half the time of its CRC instruction. Source: KIP-98.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-32 (ISO HDLC, zlib's), of v0 and v1 messages.
#[inline]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn check_values_of_the_catalogue() {
        // The "check" column of the catalogue of parametrised CRC algorithms: the CRC of these nine characters.
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}
