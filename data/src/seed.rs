//! Seeds derived from other seeds, and names as numbers.

/// A hash of two numbers, one step of SplitMix64: a seed for each `b` out of one seed `a`.
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a ^ b.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A hash of a seed and a name, the same on every machine and in every version of Rust.
pub fn hash_name(seed: u64, name: &str) -> u64 {
    name.bytes()
        .fold(seed, |hash, byte| mix(hash, u64::from(byte)))
}
