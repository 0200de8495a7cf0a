//! The terminal dashboard: a state, a pure drawing of it, and the threads that show it.
//!
//! | file | content |
//! |---|---|
//! | `keys` | what the keys do |
//! | [`state`] | what the dashboard knows |
//! | [`history`] | what it knows of a training's earlier processes |
//! | [`view`] | which panel is looked at |
//! | [`draw`] | the screen: header, panels, log |
//! | `header` | title, progress, numbers of the last step |
//! | `flow` | text in as many rows as it needs |
//! | `panel` | each panel |
//! | [`terminal`] | the thread that owns the terminal |
//! | [`plain`] | lines, off a terminal |
//! | [`hangup`] | a terminal that goes away |
//!
//! Burn's own panels are closed and its plain renderer prints no values, so this is a renderer of
//! our own. Off a terminal the same state is written as one readable line every few steps.

pub mod draw;
mod flow;
pub mod hangup;
mod header;
pub mod history;
mod keys;
mod panel;
pub mod plain;
pub mod state;
pub mod terminal;
pub mod view;
