//! `exp` for whole slices: a polynomial that the compiler turns into vector code. The library's
//! function is called value by value.

/// `exp(x)` within 2 units of the last place for `-87 < x < 88`; held at the ends beyond. NaN stays
/// NaN.
///
/// With `x = n ln 2 + r`, the polynomial gives `exp(r)` for `|r| <= ln 2 / 2` (Cephes' `expf`) and
/// the exponent's bits give `2^n`.
#[inline(always)]
pub(in crate::fused) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it leaves the nearest whole number in the last bits.
    const SHIFT: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_6e-1,
        5e-1,
    ] {
        p = p * r + coefficient;
    }
    let y = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits());
    f32::from_bits(exponent.wrapping_add(127) << 23) * y
}

/// The largest value of a row; minus infinity for an empty one.
#[inline(always)]
pub(in crate::fused) fn largest(row: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; 16];
    let (blocks, rest) = row.as_chunks::<16>();
    for block in blocks {
        for i in 0..16 {
            largest[i] = largest[i].max(block[i]);
        }
    }
    let all = largest.iter().chain(rest).copied();
    all.fold(f32::NEG_INFINITY, f32::max)
}

/// Turns scores into probabilities and returns `ln sum exp`. Where every score is minus infinity,
/// both are zero.
#[inline(always)]
pub(in crate::fused) fn softmax(row: &mut [f32]) -> f32 {
    let largest = largest(row);
    let mut sums = [0f32; 16];
    let (blocks, rest) = row.as_chunks_mut::<16>();
    for block in blocks {
        for i in 0..16 {
            block[i] = probability(block[i], largest);
            sums[i] += block[i];
        }
    }
    let mut sum = sums.iter().sum::<f32>();
    for value in rest {
        *value = probability(*value, largest);
        sum += *value;
    }
    if sum == 0.0 {
        return 0.0;
    }
    let factor = sum.recip();
    row.iter_mut().for_each(|p| *p *= factor);
    largest + sum.ln()
}

/// `exp(score - sum)`; zero where the score is minus infinity.
#[inline(always)]
pub(in crate::fused) fn probability(score: f32, sum: f32) -> f32 {
    let p = exp(score - sum);
    if score == f32::NEG_INFINITY { 0.0 } else { p }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn agrees_with_the_library_over_the_whole_range() {
        let mut worst = 0f64;
        for i in -86_999..88_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.5e-7, "{worst:e}");
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(f32::INFINITY) > 1e38);
        assert_eq!(exp(0.0), 1.0);
    }
}
