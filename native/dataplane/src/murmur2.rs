//! Kafka's murmur2, by which the default partitioner of the Java client spreads keys. Source: `Utils.murmur2`, KIP-794.

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

/// The 32-bit hash as Java's signed int.
pub fn murmur2(key: &[u8]) -> i32 {
    let mut hash = SEED ^ key.len() as u32;
    let words = key.chunks_exact(4);
    let tail = words.remainder();
    for word in words {
        let word = word
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u32::from(byte));
        let mut k = word.wrapping_mul(MULTIPLIER);
        k ^= k >> SHIFT;
        hash = hash.wrapping_mul(MULTIPLIER) ^ k.wrapping_mul(MULTIPLIER);
    }
    if !tail.is_empty() {
        for (index, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    (hash ^ (hash >> 15)) as i32
}

/// The partition of a key among `count`, as Java's default partitioner has it; None where there are no partitions.
pub fn partition(key: &[u8], count: i32) -> Option<i32> {
    (count > 0).then(|| (murmur2(key) & i32::MAX) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_java_has_it() {
        // Values of Kafka's own UtilsTest.
        let cases: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key), hash, "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(partition(b"foobar", 6), Some((-790_332_482 & i32::MAX) % 6));
        assert_eq!(partition(b"foobar", 0), None);
    }
}
