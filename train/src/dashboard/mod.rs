//! The terminal dashboard: a state, a pure drawing of it, and the threads that show it.
//!
//! Burn's own panels are closed and its plain renderer prints no values, so this is a renderer of our own. Off a terminal the
//! same state is written as one readable line every few steps.

pub mod draw;
pub mod plain;
pub mod renderer;
pub mod state;
pub mod terminal;
