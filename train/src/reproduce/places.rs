//! Where a plan's trainings and evaluations lie below its root.

use std::path::{Path, PathBuf};

use super::plan::{EvaluationJob, TrainingJob};
use crate::run_directory::RunDirectory;

/// The directory of a training.
pub(super) fn training_directory(root: &Path, training: &TrainingJob) -> PathBuf {
    root.join("trainings").join(&training.id)
}

/// The directory of an evaluation.
pub(super) fn evaluation_directory(root: &Path, evaluation: &EvaluationJob) -> PathBuf {
    root.join("evaluations").join(&evaluation.id)
}

/// Whether a training has finished.
pub(super) fn is_trained(root: &Path, training: &TrainingJob) -> bool {
    RunDirectory::at(&training_directory(root, training))
        .adapter()
        .is_file()
}
