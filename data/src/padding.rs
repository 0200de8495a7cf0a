//! To what length the rows of a pass are padded.

use burn::tensor::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// To what length the rows of a pass are padded.
///
/// A GPU compiles and tunes kernels for the shapes that it meets. On a grid it meets few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// `exact` on the processor, `grid` elsewhere.
    #[default]
    Auto,
    /// To the longest row.
    Exact,
    /// To a multiple of 16 tokens, beyond 256 of 64.
    Grid,
}

impl Padding {
    /// The length of rows on a device, of which the longest has so many tokens.
    pub fn padded(self, length: usize, device: &Device) -> usize {
        match self {
            Self::Auto if *device == Device::flex() => length,
            Self::Exact => length,
            Self::Auto | Self::Grid if length <= 256 => length.next_multiple_of(16),
            Self::Auto | Self::Grid => length.next_multiple_of(64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_few_lengths_and_the_processor_pads_to_the_longest_row() {
        let device = Device::flex();
        for (length, on_grid) in [
            (1, 16),
            (16, 16),
            (17, 32),
            (256, 256),
            (257, 320),
            (512, 512),
        ] {
            assert_eq!(Padding::Grid.padded(length, &device), on_grid);
            assert_eq!(Padding::Auto.padded(length, &device), length);
            assert_eq!(
                Padding::Auto.padded(length, &device.clone().autodiff()),
                length
            );
            assert_eq!(Padding::Exact.padded(length, &device), length);
        }
    }
}
