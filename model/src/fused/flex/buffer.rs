//! Buffers for results, cleared by the tasks that fill them. Clearing megabytes beforehand is one
//! core's work while the others wait.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// A buffer that is handed out once, in chunks, and then becomes a vector.
pub(in crate::fused) struct Buffer {
    values: Vec<f32>,
    length: usize,
    /// Whether the values are there already.
    filled: bool,
    /// How many values have been handed out.
    cleared: AtomicUsize,
}

impl Buffer {
    /// A buffer of zeros.
    pub(in crate::fused) fn new(length: usize) -> Self {
        Self {
            values: Vec::with_capacity(length),
            length,
            filled: false,
            cleared: AtomicUsize::new(0),
        }
    }

    /// A buffer that begins with these values instead of zeros.
    pub(in crate::fused) fn of(mut values: Vec<f32>) -> Self {
        let length = values.len();
        values.clear();
        Self {
            values,
            length,
            filled: true,
            cleared: AtomicUsize::new(0),
        }
    }

    /// Chunks of the buffer, to be filled. The last one may be shorter.
    pub(in crate::fused) fn par_chunks_mut(
        &mut self,
        size: usize,
    ) -> impl IndexedParallelIterator<Item = &mut [f32]> {
        self.cleared = AtomicUsize::new(0);
        let (cleared, filled) = (&self.cleared, self.filled);
        self.values.spare_capacity_mut()[..self.length]
            .par_chunks_mut(size)
            .map(move |chunk| {
                if !filled {
                    chunk.fill(MaybeUninit::new(0.0));
                }
                cleared.fetch_add(chunk.len(), Ordering::Relaxed);
                // SAFETY: every value of the chunk was written above, or before the vector was
                // emptied, which leaves the values in place.
                unsafe { chunk.assume_init_mut() }
            })
    }

    /// The values of the buffer.
    ///
    /// # Panics
    /// If a chunk was not taken.
    pub(in crate::fused) fn into_vec(mut self) -> Vec<f32> {
        assert_eq!(self.cleared.into_inner(), self.length, "a chunk not taken");
        // SAFETY: the count says that the last `par_chunks_mut` has handed out, and so written,
        // every value.
        unsafe { self.values.set_len(self.length) }
        self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_begin_as_zeros_and_make_up_the_whole() {
        let mut buffer = Buffer::new(10);
        let chunks = buffer.par_chunks_mut(4).enumerate();
        chunks.for_each(|(i, chunk)| {
            assert!(chunk.iter().all(|v| *v == 0.0));
            chunk[1] = i as f32 + 1.0;
        });
        let exact = [0.0, 1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 3.0];
        assert_eq!(buffer.into_vec(), exact);
    }

    #[test]
    fn values_that_are_there_stay() {
        let mut buffer = Buffer::of(vec![1.0, 2.0, 3.0]);
        buffer.par_chunks_mut(2).for_each(|chunk| chunk[0] += 10.0);
        assert_eq!(buffer.into_vec(), [11.0, 2.0, 13.0]);
    }

    #[test]
    #[should_panic(expected = "a chunk not taken")]
    fn a_chunk_that_nobody_took_is_not_read() {
        let mut buffer = Buffer::new(10);
        buffer
            .par_chunks_mut(4)
            .zip([0].par_iter())
            .for_each(|_| ());
        buffer.into_vec();
    }
}
