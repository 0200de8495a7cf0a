//! Dropout on the input of a LoRA branch and noise on random weights, from explicit seeds.
//!
//! A mask is a pure function of seed, place in the model, and index. A resumed run therefore draws
//! the masks of an uninterrupted one, whatever else draws random numbers.

use burn::prelude::*;
use burn::tensor::IntDType;
use rayon::prelude::*;

/// Whether dropout and weight noise act, and from which seed. Each place in the model derives a
/// stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DropoutSeed(Option<u64>);

impl DropoutSeed {
    /// Neither dropout nor weight noise acts.
    pub const OFF: Self = Self(None);

    /// Dropout and weight noise act from `seed`: in training, and at inference for methods that
    /// sample.
    pub fn new(seed: u64) -> Self {
        Self(Some(seed))
    }

    /// The seed; `None` if nothing is random.
    pub fn value(self) -> Option<u64> {
        self.0
    }

    /// The stream of one place in the model.
    pub fn at(self, place: u64) -> Self {
        Self(self.0.map(|seed| hash(seed ^ hash(place.wrapping_add(1)))))
    }
}

/// SplitMix64's finaliser.
#[inline(always)]
fn hash(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A dropout mask: each value is zeroed with probability `p` (to a 65536th), the others are divided
/// by `1 - p`. A pure function of seed and index, in 32-bit arithmetic, so that every device draws
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    seed: [u32; 2],
    threshold: u16,
}

/// Values that share sixteen hashes: the first half takes the low 16 bits of each, the second half
/// the high ones.
const GROUP: usize = 32;

impl Mask {
    /// A mask with drop probability `p`; `None` where nothing would be dropped.
    pub fn new(p: f64, seed: DropoutSeed) -> Option<Self> {
        let threshold = (p * 65536.0).round() as u16;
        let seed = seed.0.filter(|_| threshold > 0)?;
        Some(Self {
            seed: [seed as u32, (seed >> 32) as u32],
            threshold,
        })
    }

    /// The probability with which a value is kept.
    fn keep(&self) -> f64 {
        1.0 - f64::from(self.threshold) / 65536.0
    }

    /// Masks a part of the values; `first` is the index of the part's first value in the whole.
    pub fn apply(&self, values: &mut [f32], first: usize) {
        let lead = (first.next_multiple_of(GROUP) - first).min(values.len());
        let (head, rest) = values.split_at_mut(lead);
        for (value, factor) in head
            .iter_mut()
            .zip(&self.group(first / GROUP)[first % GROUP..])
        {
            *value *= factor;
        }
        mask_groups(self, rest, (first + lead) / GROUP);
    }

    /// The factors of a group of values.
    #[inline(always)]
    fn group(&self, group: usize) -> [f32; GROUP] {
        let factor = (1.0 / self.keep()) as f32;
        let threshold = u32::from(self.threshold);
        let mut factors = [0f32; GROUP];
        let (low, high) = factors.split_at_mut(GROUP / 2);
        for lane in 0..GROUP / 2 {
            let bits =
                hash32(hash32((group * (GROUP / 2) + lane) as u32 ^ self.seed[0]) ^ self.seed[1]);
            low[lane] = if bits & 0xFFFF < threshold {
                0.0
            } else {
                factor
            };
            high[lane] = if bits >> 16 < threshold { 0.0 } else { factor };
        }
        factors
    }

    /// The factors of a matrix of values, computed on the device.
    fn factors(&self, shape: [usize; 2], device: &Device) -> Tensor<2> {
        let index = Tensor::<1, Int>::arange(0..(shape[0] * shape[1]) as i64, device);
        let index = index.cast(IntDType::I32);
        let (group, lane) = (
            index.clone().bitwise_right_shift_scalar(5),
            index.clone().bitwise_and_scalar(15),
        );
        let seeded =
            |x: Tensor<1, Int>, seed: u32| hash32_of(x.bitwise_xor_scalar(i64::from(seed as i32)));
        let bits = seeded(seeded(group * 16 + lane, self.seed[0]), self.seed[1]);
        let low = bits.clone().bitwise_and_scalar(0xFFFF);
        let high = shifted_right(bits, 16);
        let second = index.bitwise_right_shift_scalar(4).bitwise_and_scalar(1);
        let draw = low.clone() + (high - low) * second;
        let kept = draw.greater_equal_scalar(i64::from(self.threshold));
        kept.float().reshape(shape) / self.keep()
    }
}

/// A bijection of 32 bits with little bias (`lowbias32` of C. Wellons' hash-prospector).
#[inline(always)]
fn hash32(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
    x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// [`hash32`] of 32-bit integers. Products wrap.
fn hash32_of(x: Tensor<1, Int>) -> Tensor<1, Int> {
    let mixed = |x: Tensor<1, Int>, by: u32| x.clone().bitwise_xor(shifted_right(x, by));
    let x = mixed(x, 16) * i64::from(0x7FEB_352D_u32 as i32);
    let x = mixed(x, 15) * i64::from(0x846C_A68B_u32 as i32);
    mixed(x, 16)
}

/// The bits of 32-bit integers shifted right, with zeros from the left.
fn shifted_right(x: Tensor<1, Int>, by: u32) -> Tensor<1, Int> {
    x.bitwise_right_shift_scalar(i64::from(by))
        .bitwise_and_scalar((1 << (32 - by)) - 1)
}

#[pulp::with_simd(mask_groups = pulp::Arch::new())]
#[inline(always)]
fn mask_groups_with<'a, S: pulp::Simd>(
    _simd: S,
    mask: &'a Mask,
    values: &'a mut [f32],
    first_group: usize,
) {
    for (group, values) in (first_group..).zip(values.chunks_mut(GROUP)) {
        for (value, factor) in values.iter_mut().zip(mask.group(group)) {
            *value *= factor;
        }
    }
}

/// Applies a mask; without one, returns x.
///
/// # Shapes
/// - x, output: `[tokens, d]`
pub fn masked(x: Tensor<2>, mask: Option<Mask>) -> Tensor<2> {
    let Some(mask) = mask else {
        return x;
    };
    let device = x.device().without_autodiff();
    let factors: Tensor<2> = if device == Device::flex() {
        let mut values = vec![1f32; x.shape().num_elements()];
        values
            .par_chunks_mut(BLOCK)
            .enumerate()
            .for_each(|(block, values)| mask.apply(values, block * BLOCK));
        Tensor::from_data(TensorData::new(values, x.dims()), &device)
    } else {
        // From the host it would cost a transfer of the size of x.
        mask.factors(x.dims(), &device)
    };
    let kind = x.dtype();
    x * factors.cast(kind)
}

/// Values masked by one task.
const BLOCK: usize = 4096;

/// Adds the noise of random weights to `hidden = x W`, by Flipout (Wen et al. 2018):
/// `hidden + ((x * r) (std * E)) * s`, with one E ~ N(0, 1) for the batch and random signs r, s for
/// each token. The noise is nearly independent between tokens, at the cost of one more product.
///
/// # Shapes
/// - hidden, output: `[tokens, r]`; x: `[tokens, d_in]`; std: `[d_in, r]`
pub fn flipout(hidden: Tensor<2>, x: Tensor<2>, std: Tensor<2>, seed: DropoutSeed) -> Tensor<2> {
    let DropoutSeed(Some(seed)) = seed else {
        return hidden;
    };
    let device = x.device().without_autodiff();
    let constant = |values: Vec<f32>, shape: [usize; 2]| -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, shape), &device)
    };
    let sign = |shape: [usize; 2], stream: u64| {
        constant(signs(shape[0] * shape[1], hash(seed ^ stream)), shape)
    };
    let shape = std.dims();
    let noise = std * constant(normal(shape[0] * shape[1], hash(seed ^ 1)), shape);
    let (before, after) = (sign(x.dims(), 2), sign(hidden.dims(), 3));
    hidden + (x * before).matmul(noise) * after
}

/// Random signs, 1 or -1, 64 from each hash.
fn signs(count: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0f32; count];
    values
        .par_chunks_mut(64)
        .enumerate()
        .with_min_len(64)
        .for_each(|(group, values)| {
            let bits = hash(seed ^ hash(group as u64));
            for (i, value) in values.iter_mut().enumerate() {
                *value = 1.0 - 2.0 * ((bits >> i) & 1) as f32;
            }
        });
    values
}

/// Standard normal draws, a pure function of the seed (Box and Muller).
pub fn normal(count: usize, seed: u64) -> Vec<f32> {
    let uniform = |i: u64| ((hash(seed ^ hash(i)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (0..count)
        .into_par_iter()
        .map(|i| {
            let (u, v) = (uniform(2 * i as u64), uniform(2 * i as u64 + 1));
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_asked_rate_keep_the_mean_and_follow_seed_and_place() {
        let draw = |seed| {
            let mut values = vec![1f32; 100_000];
            let mask = Mask::new(0.1, DropoutSeed::new(seed)).unwrap();
            mask.apply(&mut values, 0);
            // In pieces of any length at any place the mask is the same.
            let mut pieces = vec![1f32; 100_000];
            let mut at = 0;
            for (i, piece) in pieces.chunks_mut(37).enumerate() {
                assert_eq!(at, i * 37);
                mask.apply(piece, at);
                at += piece.len();
            }
            assert_eq!(values, pieces);
            values
        };
        let values = draw(7);
        let dropped = values.iter().filter(|v| **v == 0.0).count() as f64 / 1e5;
        assert!((dropped - 0.1).abs() < 0.005, "{dropped}");
        let mean = values.iter().sum::<f32>() / 1e5;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        assert_eq!(values, draw(7));
        assert_ne!(values, draw(8));
        let mask = Mask::new(0.1, DropoutSeed::new(7)).unwrap();
        let computed = mask.factors([1000, 100], &Device::flex()).into_data();
        let all = TensorData::new(values.clone(), [1000, 100]);
        computed.assert_approx_eq::<f32>(&all, burn::tensor::Tolerance::absolute(1e-6));
        let seed = DropoutSeed::new(1);
        assert_ne!(seed.at(0), seed.at(1));
        assert_eq!(DropoutSeed::OFF.at(3), DropoutSeed::OFF);
    }

    #[test]
    fn off_and_zero_change_nothing() {
        let x = Tensor::<2>::ones([3, 5], &Device::flex());
        for (p, seed) in [(0.5, DropoutSeed::OFF), (0.0, DropoutSeed::new(1))] {
            let y = masked(x.clone(), Mask::new(p, seed));
            assert_eq!(y.into_data(), x.clone().into_data());
        }
    }

    #[test]
    fn weight_noise_has_the_asked_mean_and_variance_and_follows_the_seed() {
        let device = Device::flex();
        let x = Tensor::<2>::ones([400, 6], &device);
        let hidden = Tensor::<2>::ones([400, 3], &device);
        let std = Tensor::<2>::ones([6, 3], &device) * 0.5;
        let noisy = |seed| -> Vec<f64> {
            flipout(
                hidden.clone(),
                x.clone(),
                std.clone(),
                DropoutSeed::new(seed),
            )
            .into_data()
            .try_into_vec_as()
            .unwrap()
        };
        assert_eq!(noisy(1), noisy(1));
        assert_ne!(noisy(1), noisy(2));
        let all: Vec<f64> = (0..200).flat_map(noisy).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
        // Six inputs of 1, each with variance 0.25.
        assert!(
            (mean - 1.0).abs() < 0.02 && (variance - 1.5).abs() < 0.15,
            "{mean} {variance}"
        );
        let off = flipout(hidden.clone(), x, std, DropoutSeed::OFF);
        assert_eq!(off.into_data(), hidden.into_data());
    }
}
