//! Which tokens a token may attend to.

use burn::tensor::{Bool, Int, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The heads of an attention layer: what does not follow from the shapes of q, k and v.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Heads of the queries.
    pub queries: usize,
    /// Heads of keys and values; each serves `queries / keys` heads of queries.
    pub keys: usize,
    /// Positions that a token looks back over, its own among them; `None` = all.
    pub window: Option<usize>,
    /// Bound c of the scores, `c tanh(s / c)`; `None` = no bound.
    pub soft_cap: Option<f64>,
    /// How a device without this project's kernels computes it.
    pub attention: AttentionKind,
}

/// How attention is computed where this project has no kernels for the device; the processor's are
/// exact and keep no scores. Training and scoring compute it alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// In the type of the activations.
    #[default]
    Exact,
    /// By the fastest kernel that Burn finds, whose products may take parts of 16 bits. The
    /// backward pass is exact.
    Flash,
}

impl Heads {
    /// Splits activations into heads: `[batch * sequence, count * head_dim]` becomes
    /// `[batch, count, sequence, head_dim]`.
    pub(crate) fn split(self, x: Tensor<2>, count: usize, batch: usize) -> Tensor<4> {
        let [tokens, width] = x.dims();
        x.reshape([batch, tokens / batch, count, width / count])
            .swap_dims(1, 2)
    }
}

/// Which tokens each token of a batch may attend to, from the segments, branches and positions of a
/// [`crate::LlamaInput`].
#[derive(Debug, Clone)]
pub struct Visibility {
    /// Segments, `[batch, sequence]`. A token sees its own segment; segment 0, padding, sees
    /// nothing.
    pub segments: Tensor<2, Int>,
    /// Branches, `[batch, sequence]`. A token sees branch 0, the trunk, and its own branch.
    pub branches: Tensor<2, Int>,
    /// Positions, `[batch, sequence]`, in which a window is measured.
    pub positions: Tensor<2, Int>,
    /// How many tokens at the end of each row ask, that is, have queries. All of them, unless
    /// earlier tokens stand in a cache.
    asking: usize,
    /// One mask for each kind of layer. Only the composed form of attention reads them.
    masks: Vec<(Heads, Tensor<4, Bool>)>,
}

impl Visibility {
    /// A visibility in which every token asks, without masks.
    pub fn new(
        segments: Tensor<2, Int>,
        branches: Tensor<2, Int>,
        positions: Tensor<2, Int>,
    ) -> Self {
        Self {
            asking: segments.dims()[1],
            segments,
            branches,
            positions,
            masks: Vec::new(),
        }
    }

    /// These tokens placed after earlier ones, which no longer ask. Without masks.
    pub fn after(self, earlier: &Self) -> Self {
        let join = |earlier: &Tensor<2, Int>, own: Tensor<2, Int>| {
            Tensor::cat(vec![earlier.clone(), own], 1)
        };
        Self {
            segments: join(&earlier.segments, self.segments),
            branches: join(&earlier.branches, self.branches),
            positions: join(&earlier.positions, self.positions),
            asking: self.asking,
            masks: Vec::new(),
        }
    }

    /// The given rows of the batch, in the given order. Without masks.
    pub fn select(&self, rows: &Tensor<1, Int>) -> Self {
        self.each(|t| t.select(0, rows.clone()))
    }

    /// The same outside any graph, without masks.
    pub(crate) fn plain(&self) -> Self {
        self.each(Tensor::without_autodiff)
    }

    /// What becomes of each of the three, without masks.
    fn each(&self, of: impl Fn(Tensor<2, Int>) -> Tensor<2, Int>) -> Self {
        Self {
            segments: of(self.segments.clone()),
            branches: of(self.branches.clone()),
            positions: of(self.positions.clone()),
            asking: self.asking,
            masks: Vec::new(),
        }
    }

    /// The same visibility with a mask for each kind of layer.
    pub fn with_masks(mut self, layers: impl Iterator<Item = Heads>) -> Self {
        for heads in layers {
            if self.masks.iter().all(|(known, _)| *known != heads) {
                self.masks.push((heads, self.hidden_by_head(heads)));
            }
        }
        self
    }

    /// The mask of one kind of layer, true where a query must not look at a key:
    /// `[batch, keys, queries / keys * asking, sequence]`. The queries that share a key-value head
    /// follow one another along the third dimension.
    ///
    /// # Panics
    /// Without a mask for these heads, see [`Self::with_masks`].
    pub(crate) fn mask(&self, heads: Heads) -> Tensor<4, Bool> {
        let found = self.masks.iter().find(|(known, _)| *known == heads);
        let (_, mask) = found.expect("a mask for every kind of layer");
        mask.clone()
    }

    /// Builds the mask that [`Self::mask`] returns.
    fn hidden_by_head(&self, heads: Heads) -> Tensor<4, Bool> {
        let [batch, sequence] = self.segments.dims();
        let asking = self.asking;
        let groups = heads.queries / heads.keys;
        self.hidden(sequence - asking, asking, heads.window)
            .reshape([batch, 1, 1, asking, sequence])
            .expand([batch, heads.keys, groups, asking, sequence])
            .reshape([batch, heads.keys, groups * asking, sequence])
    }

    /// Where some tokens of each row, those from `first` on, must not look, among the tokens up to
    /// the last of them: `[batch, asking, first + asking]`.
    pub(crate) fn hidden(
        &self,
        first: usize,
        asking: usize,
        window: Option<usize>,
    ) -> Tensor<3, Bool> {
        let [batch, _] = self.segments.dims();
        let seen = first + asking;
        // The values of the asking tokens i and of all tokens j.
        let pairs = |t: &Tensor<2, Int>| {
            let own = t.clone().narrow(1, first, asking);
            let all = t.clone().narrow(1, 0, seen);
            (
                own.reshape([batch, asking, 1]),
                all.reshape([batch, 1, seen]),
            )
        };
        let order = Tensor::<1, Int>::arange(0..seen as i64, &self.segments.device());
        let order_i = order.clone().narrow(0, first, asking);
        let (order_i, order_j) = (order_i.reshape([1, asking, 1]), order.reshape([1, 1, seen]));
        let (segment_i, segment_j) = pairs(&self.segments);
        let (branch_i, branch_j) = pairs(&self.branches);
        let (position_i, position_j) = pairs(&self.positions);
        let square = [batch, asking, seen];
        let mut hidden = order_j
            .greater(order_i)
            .expand(square)
            .bool_or(segment_i.clone().not_equal(segment_j))
            .bool_or(segment_i.equal_scalar(0).expand(square));
        hidden = hidden.bool_or(
            branch_i
                .not_equal(branch_j.clone())
                .bool_and(branch_j.not_equal_scalar(0).expand(square)),
        );
        if let Some(window) = window {
            // Positions are i32 on a device: a wider window would wrap around and hide everything.
            let window = i32::try_from(window).unwrap_or(i32::MAX);
            hidden = hidden.bool_or((position_i - position_j).greater_equal_scalar(window));
        }
        hidden
    }
}
