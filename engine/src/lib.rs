//! The one place where the stages meet: retrieve, rank, re-rank.
//!
//! The server, the nightly batch and the evaluation all call [`pipeline::Pipeline::recommend`]; training asks the same
//! pipeline for the candidates that it learns from.

pub mod config;
mod defaults;
pub mod embedding_import;
pub mod keys;

pub mod filter;
pub mod pipeline;
mod slate;

pub mod release;
mod seen;
pub mod shelf;

pub mod ask;
mod calibrate;
pub mod clock;
pub mod cost;
pub mod json_lines;
pub mod precompute;
pub mod replica;
pub mod state;
pub mod stored_lists;
pub mod training;
