//! The application: choose, wire, exit. No mathematics here.
#![recursion_limit = "256"]

pub mod allocator;
pub mod backend;
pub mod cli;
pub mod serve;
