//! Is it better? Metrics, their intervals, and the report.
//!
//! A run asks the pipeline its questions, one query group each, and a [`metrics::Metric`] turns a list into a number.
//! [`intervals`] makes means of these numbers with 95 % intervals, the user being the unit; [`report`] shows them.
//!
//! ```
//! use eval::intervals::{Bootstrap, Observation};
//! use eval::metrics::Metric;
//! use featurestore::{ItemId, UserId};
//!
//! let metric: Metric = "recall@2/n".parse()?;
//! let relevant = [ItemId(1), ItemId(4)].into_iter().collect();
//! let lists = [[ItemId(4), ItemId(2)], [ItemId(4), ItemId(1)]];
//! let observations: Vec<Observation> = (0..)
//!     .zip(&lists)
//!     .filter_map(|(user, list)| {
//!         let value = metric.compute(list, &relevant)?;
//!         Some(Observation { user: UserId(user), value })
//!     })
//!     .collect();
//! let interval = Bootstrap::default().mean(&observations).expect("two users");
//! assert_eq!((interval.low, interval.mean, interval.high), (0.5, 0.75, 1.0));
//! # Ok::<(), eval::metrics::ParseMetricError>(())
//! ```

pub mod metrics;

pub mod intervals;
pub mod significance;

pub mod cohorts;
pub mod drift;
pub mod reliability;
pub mod sources;
pub mod waterfall;

pub mod report;

pub mod baselines;
pub mod gate;
pub mod run;
