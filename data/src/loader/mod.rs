//! The loaders that serve batches in training and in evaluation.
//!
//! Burn writes a checkpoint after each epoch of its Learner. One such epoch is therefore a *chunk*
//! of optimizer steps, served by [`TrainLoader`]. The order of the questions derives from the seed
//! and the real epoch alone, so a resumed run sees exactly what an uninterrupted one would.

mod evaluation;
mod state;
mod training;

pub use evaluation::EvaluationLoader;
pub use state::LoaderState;
pub use training::TrainLoader;
