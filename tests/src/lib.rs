//! The product from outside: what its tests share.
//!
//! A [`Shop`] is a small made-up event log with its catalogue. A [`Project`] is an empty temporary folder in which the
//! built binary is run, and a [`Server`] is that binary serving it. A [`Redis`] is a real `redis-server`, a [`Proxy`]
//! makes its answers late or cuts them. What needs no product is made by [`plan_of`].

mod plan;
mod project;
mod proxy;
mod redis;
mod server;
mod shop;

pub use plan::plan_of;
pub use project::{Project, Ran, binary};
pub use proxy::Proxy;
pub use redis::Redis;
pub use server::{Answer, Server, ids, scored};
pub use shop::{Shop, ShopEvent};
