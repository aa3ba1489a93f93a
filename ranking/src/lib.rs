//! A thousand candidates to a hundred: what is learnt from query groups, and how candidates are
//! scored with it.
//!
//! `engine` fills [`groups::Groups`] from replay and fits a ranker on them. LightGBM trains
//! ([`lightgbm`]); its model text is read once, by our own parser ([`model_text`]), into a
//! [`forest::Forest`], and the server scores with that alone: no C++ runs there. [`linear`] is the
//! baseline beside it. [`calibration`] turns scores into probabilities and [`value`] joins those of
//! several objectives into one score.
//!
//! ```
//! use ranking::groups::Groups;
//! use ranking::lightgbm::{LightGbmConfig, fit};
//! use ranking::ranker::Ranker;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Fifty requests with four candidates each; the one with the highest similarity was bought.
//! let mut train = Groups::new(vec!["similarity".into(), "age_days".into()]);
//! for request in 0..50 {
//!     let age = request as f32;
//!     train.push_group(&[0.9, age, 0.4, f32::NAN, 0.3, age, 0.1, age], &[1.0, 0.0, 0.0, 0.0]);
//! }
//! let config = LightGbmConfig { n_trees: 5, min_data_in_leaf: 5, ..LightGbmConfig::default() };
//! let model = fit(&train, None, &config, &mut |_| {})?;
//!
//! // Serving: columns, one feature after the other.
//! let ranker = Ranker::Forest(model.forest()?);
//! let mut scores = Vec::new();
//! ranker.score(&[0.2, 0.8, /* age_days */ 1.0, 3.0], 2, &mut scores);
//! assert!(scores[1] > scores[0]);
//! # Ok(())
//! # }
//! ```

pub mod groups;
pub mod lightgbm;
mod validation;

pub mod forest;
pub mod model_text;

pub mod linear;
pub mod ranker;

pub mod calibration;
pub mod value;
