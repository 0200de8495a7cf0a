//! Products with a matrix of a few columns (the rank of an adapter) and rows picked by index. A
//! general product would spend most of its time on copying the rows together and padding the
//! columns. These run at the processor's peak.
//!
//! A row that an index names twice in one call is allowed where it is read, not where it is
//! written.

use pulp::{Arch, Simd};

/// Rows, or columns, that share each value that is read.
const ROWS: usize = 8;

/// `h_i = x_(rows_i) A`
///
/// # Shapes
/// - x: rows of d; a: `[d, r]`; h: `[rows, r]`
#[pulp::with_simd(project = Arch::new())]
#[inline(always)]
pub(in crate::fused) fn project_with<'a, S: Simd>(
    simd: S,
    x: &'a [f32],
    rows: &'a [usize],
    a: &'a [f32],
    r: usize,
    h: &'a mut [f32],
) {
    let d = a.len() / r;
    let wide = r / S::F32_LANES * S::F32_LANES;
    for (rows, h) in rows.chunks(ROWS).zip(h.chunks_mut(ROWS * r)) {
        let m = rows.len();
        // Rows past the last repeat it; what comes of them is not written.
        let x: [&[f32]; ROWS] = std::array::from_fn(|i| &x[rows[i.min(m - 1)] * d..][..d]);
        for c in (0..wide).step_by(S::F32_LANES) {
            let mut sums = [simd.splat_f32s(0.0); ROWS];
            for (l, a) in a.chunks_exact(r).enumerate() {
                let a = S::as_simd_f32s(&a[c..c + S::F32_LANES]).0[0];
                for i in 0..ROWS {
                    sums[i] = simd.mul_add_f32s(simd.splat_f32s(x[i][l]), a, sums[i]);
                }
            }
            for i in 0..m {
                S::as_mut_simd_f32s(&mut h[i * r + c..][..S::F32_LANES]).0[0] = sums[i];
            }
        }
        for c in wide..r {
            for i in 0..m {
                h[i * r + c] = a.chunks_exact(r).zip(x[i]).map(|(a, x)| x * a[c]).sum();
            }
        }
    }
}

/// `y_(rows_i) += h_i B`
///
/// # Shapes
/// - h: `[rows, r]`; b: `[r, o]`; y: rows of o
#[pulp::with_simd(spread = Arch::new())]
#[inline(always)]
pub(in crate::fused) fn spread_with<'a, S: Simd>(
    simd: S,
    h: &'a [f32],
    rows: &'a [usize],
    b: &'a [f32],
    r: usize,
    y: &'a mut [f32],
) {
    /// Rows handled at once; each has two sums.
    const HALF: usize = ROWS / 2;
    let o = b.len() / r;
    let pair = 2 * S::F32_LANES;
    let wide = o / pair * pair;
    for (rows, h) in rows.chunks(HALF).zip(h.chunks(HALF * r)) {
        let m = rows.len();
        let h: [&[f32]; HALF] = std::array::from_fn(|i| &h[i.min(m - 1) * r..][..r]);
        for c in (0..wide).step_by(pair) {
            let mut sums = [[simd.splat_f32s(0.0); 2]; HALF];
            for (l, b) in b.chunks_exact(o).enumerate() {
                let b = S::as_simd_f32s(&b[c..c + pair]).0;
                for i in 0..HALF {
                    let h = simd.splat_f32s(h[i][l]);
                    sums[i] = [
                        simd.mul_add_f32s(h, b[0], sums[i][0]),
                        simd.mul_add_f32s(h, b[1], sums[i][1]),
                    ];
                }
            }
            for i in 0..m {
                let y = S::as_mut_simd_f32s(&mut y[rows[i] * o + c..][..pair]).0;
                y[0] = simd.add_f32s(y[0], sums[i][0]);
                y[1] = simd.add_f32s(y[1], sums[i][1]);
            }
        }
        for i in 0..m {
            for c in wide..o {
                let column = b.chunks_exact(o).zip(h[i]).map(|(b, h)| h * b[c]);
                y[rows[i] * o + c] += column.sum::<f32>();
            }
        }
    }
}

/// Rows of a matrix, picked by index.
#[derive(Clone, Copy)]
pub(in crate::fused) struct Picked<'a> {
    /// The values of the matrix, or of its part from some column on.
    pub(in crate::fused) values: &'a [f32],
    /// Values from the start of one row to that of the next.
    pub(in crate::fused) width: usize,
    /// The rows that are picked, in order.
    pub(in crate::fused) rows: &'a [usize],
}

/// `g = sum_i x_i^T h_i` over the picked rows, for the first columns of x and all of h.
///
/// # Shapes
/// - x: `[rows, d]`; h: `[rows, r]`; g: `[columns, r]`
#[pulp::with_simd(outer = Arch::new())]
#[inline(always)]
pub(in crate::fused) fn outer_with<'a, S: Simd>(
    simd: S,
    x: Picked<'a>,
    h: Picked<'a>,
    g: &'a mut [f32],
) {
    let r = h.width;
    let wide = r / S::F32_LANES * S::F32_LANES;
    for (block, g) in g.chunks_mut(ROWS * r).enumerate() {
        let (first, m) = (block * ROWS, g.len() / r);
        let pairs = || {
            let x_rows = x
                .rows
                .iter()
                .map(|row| &x.values[row * x.width + first..][..m]);
            x_rows.zip(h.rows.iter().map(|row| &h.values[row * r..][..r]))
        };
        for c in (0..wide).step_by(S::F32_LANES) {
            let mut sums = [simd.splat_f32s(0.0); ROWS];
            for (x, h) in pairs() {
                let h = S::as_simd_f32s(&h[c..c + S::F32_LANES]).0[0];
                if m == ROWS {
                    for i in 0..ROWS {
                        sums[i] = simd.mul_add_f32s(simd.splat_f32s(x[i]), h, sums[i]);
                    }
                } else {
                    for i in 0..m {
                        sums[i] = simd.mul_add_f32s(simd.splat_f32s(x[i]), h, sums[i]);
                    }
                }
            }
            for i in 0..m {
                S::as_mut_simd_f32s(&mut g[i * r + c..][..S::F32_LANES]).0[0] = sums[i];
            }
        }
        for c in wide..r {
            for i in 0..m {
                g[i * r + c] = pairs().map(|(x, h)| x[i] * h[c]).sum();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_with_picked_rows_equal_the_sums_that_define_them() {
        let value = |i: usize| (i * 7 % 13) as f32 - 6.0;
        for (d, r, rows) in [
            (1, 1, vec![0]),
            (37, 16, vec![2, 0, 1]),
            (70, 19, (0..11).map(|i| i * 3 % 11).collect()),
            (64, 40, (0..33).rev().collect()),
        ] {
            let n = rows.len();
            let x: Vec<f32> = (0..n * d).map(value).collect();
            let a: Vec<f32> = (0..d * r).map(|i| value(i + 5)).collect();
            let mut h = vec![0f32; n * r];
            project(&x, &rows, &a, r, &mut h);
            for (i, h) in h.iter().enumerate() {
                let row = rows[i / r] * d;
                let exact: f32 = (0..d).map(|l| x[row + l] * a[l * r + i % r]).sum();
                assert_eq!(*h, exact);
            }
            // h as what is spread by `[r, d]`.
            let h: Vec<f32> = (0..n * r).map(|i| value(i + 3)).collect();
            let mut y = x.clone();
            spread(&h, &rows, &a, r, &mut y);
            for (i, row) in rows.iter().enumerate() {
                for c in 0..d {
                    let sum: f32 = (0..r).map(|l| h[i * r + l] * a[l * d + c]).sum();
                    assert_eq!(y[row * d + c], x[row * d + c] + sum);
                }
            }
            // From the second column on, if there is one; h picked backwards.
            let first = usize::from(d > 1);
            let mut g = vec![0f32; (d - first) * r];
            let backwards: Vec<usize> = (0..n).rev().collect();
            let x_rows = Picked {
                values: &x[first..],
                width: d,
                rows: &rows,
            };
            let h_rows = Picked {
                values: &h,
                width: r,
                rows: &backwards,
            };
            outer(x_rows, h_rows, &mut g);
            for (i, g) in g.iter().enumerate() {
                let (l, c) = (first + i / r, i % r);
                let pairs = rows.iter().zip(&backwards);
                let exact: f32 = pairs.map(|(i, j)| x[i * d + l] * h[j * r + c]).sum();
                assert_eq!(*g, exact);
            }
        }
    }
}
