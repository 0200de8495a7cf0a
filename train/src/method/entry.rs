//! An entry of the table of methods: what the command line, the settings and a training need to
//! know of a method before it is built.

use std::sync::Arc;

use super::Method;
use crate::config::RunConfig;
use crate::config::ranges::Range;
use crate::config::readers::{EVERY_METHOD, EVERY_TRAINING, ROUTERS, holds};

/// An entry of the table of methods. Each method's file holds its own; one that queries another
/// method's training takes what it does not change from that one's entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The name on the command line.
    pub name: &'static str,
    /// A line of description.
    pub about: &'static str,
    /// Name of the method whose training it queries under these settings; the method's own if it
    /// trains itself.
    pub trained_as: fn(&RunConfig) -> &'static str,
    /// Settings that decide its training, beside those of every training, by section or by key.
    pub trains_with: &'static [&'static [&'static str]],
    /// Settings that it reads beside those when questions are asked.
    pub asks_with: &'static [&'static str],
    /// Range of each setting that is the method's own, by key.
    pub ranges: &'static [(&'static str, Range)],
    /// Sets what the method decides in the settings of its training, whatever they said.
    pub fixes: fn(&mut RunConfig),
    /// Builds the method from a run's settings.
    pub construct: fn(&RunConfig) -> Arc<dyn Method>,
}

impl Entry {
    /// Whether a setting, `section.key`, makes a difference to the method.
    pub fn reads(&self, key: &str) -> bool {
        let read =
            |key: &str| holds(EVERY_METHOD, key) || self.decides(key) || holds(self.asks_with, key);
        read(key) && self.is_served(key)
    }

    /// Whether a setting, `section.key`, is part of the settings of the method's training.
    pub(crate) fn trains_with(&self, key: &str) -> bool {
        (holds(EVERY_TRAINING, key) || self.decides(key)) && self.is_served(key)
    }

    fn decides(&self, key: &str) -> bool {
        self.trains_with.iter().any(|parts| holds(parts, key))
    }

    /// Settings of routers say nothing to a method without any.
    fn is_served(&self, key: &str) -> bool {
        !holds(ROUTERS, key) || self.decides("adapter.num_experts")
    }
}
