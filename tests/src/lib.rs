//! The product from outside: what its tests share.
//!
//! A [`Shop`] is a small made-up event log with its catalogue. A [`Project`] is an empty temporary folder in which the
//! built binary is run, and a [`Server`] is that binary serving it. A [`Redis`] is a real `redis-server`.

mod project;
mod redis;
mod server;
mod shop;

pub use project::{Project, Ran, binary};
pub use redis::Redis;
pub use server::{Answer, Server};
pub use shop::{Shop, ShopEvent};
