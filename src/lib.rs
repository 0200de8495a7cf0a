//! The application: choose, wire, exit. It computes nothing and decides no order of work.
//!
//! | module | content |
//! |---|---|
//! | [`cli`] | `uq4ct VERB`: one file a verb |
//! | [`serve`] | a finished run over HTTP |
//! | [`backend`] | names of devices; no other file names a backend |
//! | [`allocator`] | the binaries' allocator |
#![recursion_limit = "256"]

pub mod allocator;
pub mod backend;
pub mod cli;
pub mod serve;
