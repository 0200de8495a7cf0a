//! Dropout on the input of a LoRA branch and noise on random weights, from explicit seeds.
//!
//! A mask is a pure function of seed, place in the model, the row's tokens, and column. A resumed
//! run therefore draws the masks of an uninterrupted one, whatever else draws random numbers, and
//! several devices draw those of one.

use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::IntTensor;
use burn::backend::{Backend, Dispatch, ExtensionType};
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

/// A number for each token of a forward pass, from which its masks are drawn: a hash of its row's
/// tokens and of its place among them.
///
/// It depends neither on the rows beside it nor on padding. So a question meets the same masks
/// however a step is divided into passes, and among devices.
#[derive(Debug, Clone)]
pub struct TokenKeys(Tensor<1, Int>);

impl TokenKeys {
    /// The keys of the tokens of a pass, row after row. All arguments as
    /// [`LlamaInput`](crate::LlamaInput) has them.
    ///
    /// # Shapes
    /// - tokens, positions, segments, branches: `[batch, sequence]`
    pub fn new(
        tokens: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        segments: Tensor<2, Int>,
        branches: Tensor<2, Int>,
    ) -> Self {
        let odd = signed(0x9E37_79B9);
        let [tokens, positions, segments, branches] =
            [tokens, positions, segments, branches].map(|t| t.cast(IntDType::I32));
        let shape = tokens.dims();
        let inside = segments
            .clone()
            .not_equal_scalar(0)
            .int()
            .cast(IntDType::I32);
        let place = hash32_of(hash32_of(positions) + branches * odd);
        let place = hash32_of(place + segments * odd);
        let word = hash32_of(place.clone() + tokens * odd) * inside;
        // In halves, whose sums are exact on every device.
        let low = word.clone().bitwise_and_scalar(0xFFFF).sum_dim(1);
        let high = shifted_right(word, 16).sum_dim(1);
        let row = hash32_of(hash32_of(low).bitwise_xor(high));
        let keys = hash32_of(row.expand(shape) + place).flatten(0, 1);
        Self(keys.without_autodiff())
    }

    /// The keys on the host.
    fn values(&self) -> Vec<u32> {
        let keys: Vec<i32> = self
            .0
            .clone()
            .into_data()
            .try_into_vec_as()
            .expect("integers");
        keys.into_iter().map(|key| key as u32).collect()
    }
}

/// What decides a mask beside the tokens' keys: each value is zeroed with probability `p` (to a
/// 65536th), the others are divided by `1 - p`. In 32-bit arithmetic, so that every device draws
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    seed: [u32; 2],
    threshold: u16,
}

/// Columns that share sixteen hashes: the first half takes the low 16 bits of each, the second half
/// the high ones.
const GROUP: usize = 32;

impl Draw {
    fn new(threshold: u16, seed: u64) -> Self {
        Self {
            seed: [seed as u32, (seed >> 32) as u32],
            threshold,
        }
    }

    /// The probability with which a value is kept.
    fn keep(self) -> f64 {
        1.0 - f64::from(self.threshold) / 65536.0
    }

    /// Masks rows of `width` values, the rows of the tokens with these keys.
    pub(crate) fn apply(self, values: &mut [f32], keys: &[u32], width: usize) {
        if width == 0 {
            return;
        }
        let lanes = width.div_ceil(GROUP) * (GROUP / 2);
        let columns: Vec<u32> = (0..lanes as u32)
            .map(|lane| hash32(lane ^ self.seed[1]))
            .collect();
        mask_rows(self, values, keys, width, &columns);
    }

    /// Whether each value is kept, `[tokens, width]`, computed on the keys' device.
    fn kept(self, keys: &TokenKeys, width: usize) -> Tensor<2, Bool> {
        let rows = hash32_of(keys.0.clone().bitwise_xor_scalar(signed(self.seed[0])));
        let [tokens] = rows.dims();
        let column = Tensor::<1, Int>::arange(0..width as i64, &rows.device()).cast(IntDType::I32);
        let group = column.clone().bitwise_right_shift_scalar(5);
        let lane = group * 16 + column.clone().bitwise_and_scalar(15);
        let columns = hash32_of(lane.bitwise_xor_scalar(signed(self.seed[1])));
        let wide = |column: Tensor<1, Int>| column.unsqueeze_dim::<2>(0).expand([tokens, width]);
        let rows = rows.unsqueeze_dim::<2>(1).expand([tokens, width]);
        let bits = hash32_of(wide(columns).bitwise_xor(rows));
        let second = column.bitwise_right_shift_scalar(4).bitwise_and_scalar(1);
        let low = bits.clone().bitwise_and_scalar(0xFFFF);
        let high = shifted_right(bits, 16);
        let draw = low.clone() + (high - low) * wide(second);
        draw.greater_equal_scalar(i64::from(self.threshold))
    }

    /// 1 where a value is kept and `otherwise` where not, `[tokens, width]`, on the keys' device.
    fn either(self, keys: &TokenKeys, width: usize, otherwise: f32) -> Tensor<2> {
        let device = keys.0.device();
        if device == Device::flex() {
            let keys = keys.values();
            let values = self.drawn(&keys, width, otherwise);
            return Tensor::from_data(TensorData::new(values, [keys.len(), width]), &device);
        }
        // From the host it would cost a transfer of the size of x.
        self.kept(keys, width).float() * (1.0 - otherwise) + otherwise
    }

    /// The same on the host.
    fn drawn(self, keys: &[u32], width: usize, otherwise: f32) -> Vec<f32> {
        let mut values = vec![1f32; keys.len() * width];
        values
            .par_chunks_mut((ROWS * width).max(1))
            .zip(keys.par_chunks(ROWS))
            .for_each(|(values, keys)| {
                self.apply(values, keys, width);
                for value in values {
                    *value = if *value == 0.0 { otherwise } else { 1.0 };
                }
            });
        values
    }
}

/// A dropout mask on the rows of a forward pass: a pure function of seed, tokens and column.
#[derive(Debug, Clone)]
pub struct Mask {
    /// What decides it beside the keys.
    pub(crate) draw: Draw,
    /// The rows' keys.
    pub(crate) keys: TokenKeys,
}

impl Mask {
    /// A mask with drop probability `p`; `None` where nothing would be dropped.
    pub fn new(p: f64, seed: DropoutSeed, keys: &TokenKeys) -> Option<Self> {
        let threshold = (p * 65536.0).round() as u16;
        let seed = seed.0.filter(|_| threshold > 0)?;
        Some(Self {
            draw: Draw::new(threshold, seed),
            keys: keys.clone(),
        })
    }

    /// The mask as Burn dispatches it.
    pub(crate) fn into_dispatch(mask: Option<Self>) -> Dropout<Dispatch> {
        match mask {
            None => Dropout::Off,
            Some(Self { draw, keys }) => Dropout::On {
                draw,
                keys: keys.0.into_dispatch(),
            },
        }
    }
}

/// An optional [`Mask`] on the primitives of a backend.
#[derive(ExtensionType, Clone, Debug)]
pub enum Dropout<B: Backend> {
    /// Nothing is dropped.
    Off,
    /// See [`Mask`].
    On {
        /// What decides the mask beside the keys.
        draw: Draw,
        /// The rows' keys, `[tokens]`.
        keys: IntTensor<B>,
    },
}

impl<B: Backend, C: CheckpointStrategy> Dropout<Autodiff<B, C>> {
    /// The same outside the graph.
    pub(crate) fn inner(self) -> Dropout<B> {
        match self {
            Self::Off => Dropout::Off,
            Self::On { draw, keys } => Dropout::On { draw, keys },
        }
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
fn hash32_of<const D: usize>(x: Tensor<D, Int>) -> Tensor<D, Int> {
    let mixed = |x: Tensor<D, Int>, by: u32| x.clone().bitwise_xor(shifted_right(x, by));
    let x = mixed(x, 16) * signed(0x7FEB_352D);
    let x = mixed(x, 15) * signed(0x846C_A68B);
    mixed(x, 16)
}

/// The 32-bit integer with these bits.
fn signed(bits: u32) -> i64 {
    i64::from(bits as i32)
}

/// The bits of 32-bit integers shifted right, with zeros from the left.
fn shifted_right<const D: usize>(x: Tensor<D, Int>, by: u32) -> Tensor<D, Int> {
    x.bitwise_right_shift_scalar(i64::from(by))
        .bitwise_and_scalar((1 << (32 - by)) - 1)
}

#[pulp::with_simd(mask_rows = pulp::Arch::new())]
#[inline(always)]
fn mask_rows_with<'a, S: pulp::Simd>(
    _simd: S,
    draw: Draw,
    values: &'a mut [f32],
    keys: &'a [u32],
    width: usize,
    columns: &'a [u32],
) {
    let factor = (1.0 / draw.keep()) as f32;
    let threshold = u32::from(draw.threshold);
    for (values, key) in values.chunks_mut(width).zip(keys) {
        let key = hash32(key ^ draw.seed[0]);
        for (values, columns) in values.chunks_mut(GROUP).zip(columns.chunks(GROUP / 2)) {
            let mut factors = [0f32; GROUP];
            let (low, high) = factors.split_at_mut(GROUP / 2);
            for ((low, high), column) in low.iter_mut().zip(high).zip(columns) {
                let bits = hash32(column ^ key);
                *low = if bits & 0xFFFF < threshold {
                    0.0
                } else {
                    factor
                };
                *high = if bits >> 16 < threshold { 0.0 } else { factor };
            }
            for (value, factor) in values.iter_mut().zip(factors) {
                *value *= factor;
            }
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
    let factors = mask.draw.either(&mask.keys, x.dims()[1], 0.0) / mask.draw.keep();
    let kind = x.dtype();
    x * factors.cast(kind)
}

/// Rows masked by one task.
const ROWS: usize = 16;

/// Adds the noise of random weights to `hidden = x W`, by Flipout (Wen et al. 2018):
/// `hidden + ((x * r) (std * E)) * s`, with one E ~ N(0, 1) for the batch and random signs r, s for
/// each token. The noise is nearly independent between tokens, at the cost of one more product.
///
/// # Shapes
/// - hidden, output: `[tokens, r]`; x: `[tokens, d_in]`; std: `[d_in, r]`
pub fn flipout(
    hidden: Tensor<2>,
    x: Tensor<2>,
    std: Tensor<2>,
    seed: DropoutSeed,
    keys: Option<&TokenKeys>,
) -> Tensor<2> {
    let (DropoutSeed(Some(seed)), Some(keys)) = (seed, keys) else {
        return hidden;
    };
    let device = x.device().without_autodiff();
    let sign = |like: &Tensor<2>, stream: u64| {
        let draw = Draw::new(1 << 15, hash(seed ^ stream));
        draw.either(keys, like.dims()[1], -1.0)
    };
    let shape = std.dims();
    let noise = normal(shape[0] * shape[1], hash(seed ^ 1));
    let noise = std * Tensor::from_data(TensorData::new(noise, shape), &device);
    let (before, after) = (sign(&x, 2), sign(&hidden, 3));
    hidden + (x * before).matmul(noise) * after
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

/// What tests of masks share.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Keys of rows that begin at some token, padded to a length.
    pub(super) fn keys(rows: &[u32], real: usize, length: usize) -> TokenKeys {
        let grid = |value: &dyn Fn(u32, usize) -> i32| {
            let each = rows
                .iter()
                .flat_map(|row| (0..length).map(|i| value(*row, i)));
            let values: Vec<i32> = each.collect();
            let shape = [rows.len(), length];
            Tensor::<2, Int>::from_data(TensorData::new(values, shape), &Device::flex())
        };
        let inside = |i: usize| i < real;
        TokenKeys::new(
            grid(&|row, i| {
                if inside(i) {
                    row as i32 + 7 * i as i32
                } else {
                    0
                }
            }),
            grid(&|_, i| if inside(i) { i as i32 } else { 0 }),
            grid(&|_, i| i32::from(inside(i))),
            grid(&|_, _| 0),
        )
    }

    /// A mask that drops three of ten values of so many tokens.
    pub(crate) fn mask(tokens: usize) -> Mask {
        let keys = keys(&[5], tokens, tokens);
        Mask::new(0.3, DropoutSeed::new(9), &keys).expect("something is dropped")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::keys;
    use super::*;

    fn mask(p: f64, seed: u64, keys: &TokenKeys) -> Mask {
        Mask::new(p, DropoutSeed::new(seed), keys).unwrap()
    }

    #[test]
    fn a_token_has_its_key_whatever_stands_beside_it_and_however_its_row_is_padded() {
        let both = keys(&[3, 900], 5, 5).values();
        assert_eq!(both[5..], keys(&[900], 5, 5).values());
        assert_eq!(both[..5], keys(&[3], 5, 8).values()[..5]);
        let mut all = keys(&(0..200).collect::<Vec<_>>(), 50, 50).values();
        all.sort_unstable();
        all.dedup();
        // Of 10,000 numbers of 32 bits, 0.01 pairs are alike on the mean.
        assert!(all.len() > 9_997, "{}", all.len());
    }

    #[test]
    fn masks_have_the_asked_rate_keep_the_mean_and_follow_seed_token_and_column() {
        for width in [100, 1, 31, 64] {
            let keys = keys(&[1, 2, 3, 4], 250, 250);
            let draw = |seed| {
                let mask = mask(0.1, seed, &keys);
                let mut values = vec![1f32; 1000 * width];
                mask.draw.apply(&mut values, &keys.values(), width);
                // In pieces of any number of rows the mask is the same.
                let mut pieces = vec![1f32; 1000 * width];
                let rows = keys.values();
                for (piece, rows) in pieces.chunks_mut(37 * width).zip(rows.chunks(37)) {
                    mask.draw.apply(piece, rows, width);
                }
                assert_eq!(values, pieces);
                values
            };
            let values = draw(7);
            let all = values.len() as f64;
            let dropped = values.iter().filter(|v| **v == 0.0).count() as f64 / all;
            let deviation = (0.1 * 0.9 / all).sqrt();
            assert!(
                (dropped - 0.1).abs() < 4.0 * deviation,
                "{width}: {dropped}"
            );
            let mean = f64::from(values.iter().sum::<f32>()) / all;
            assert!(
                (mean - 1.0).abs() < 4.0 * deviation / 0.9,
                "{width}: {mean}"
            );
            assert_eq!(values, draw(7));
            assert_ne!(values, draw(8));
            let kept = mask(0.1, 7, &keys).draw.kept(&keys, width).float() / 0.9;
            let all = TensorData::new(values.clone(), [1000, width]);
            let tolerance = burn::tensor::Tolerance::absolute(1e-4);
            kept.into_data().assert_approx_eq::<f32>(&all, tolerance);
            // Neither rows nor columns are alike.
            assert_ne!(values[..250 * width], values[250 * width..500 * width]);
        }
        let seed = DropoutSeed::new(1);
        assert_ne!(seed.at(0), seed.at(1));
        assert_eq!(DropoutSeed::OFF.at(3), DropoutSeed::OFF);
    }

    #[test]
    fn off_and_zero_change_nothing() {
        let x = Tensor::<2>::ones([3, 5], &Device::flex());
        let keys = keys(&[1], 3, 3);
        for (p, seed) in [(0.5, DropoutSeed::OFF), (0.0, DropoutSeed::new(1))] {
            let y = masked(x.clone(), Mask::new(p, seed, &keys));
            assert_eq!(y.into_data(), x.clone().into_data());
        }
    }

    #[test]
    fn weight_noise_has_the_asked_mean_and_variance_and_follows_the_seed() {
        let device = Device::flex();
        let x = Tensor::<2>::ones([400, 6], &device);
        let hidden = Tensor::<2>::ones([400, 3], &device);
        let std = Tensor::<2>::ones([6, 3], &device) * 0.5;
        let keys = keys(&[1, 2, 3, 4], 100, 100);
        let noisy = |seed| -> Vec<f64> {
            let seed = DropoutSeed::new(seed);
            flipout(hidden.clone(), x.clone(), std.clone(), seed, Some(&keys))
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
        let off = flipout(hidden.clone(), x, std, DropoutSeed::OFF, Some(&keys));
        assert_eq!(off.into_data(), hidden.into_data());
    }
}
