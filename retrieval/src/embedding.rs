//! The embedding: a vector for each item, and one for each user to multiply them with. It is trained here, or imported.

use std::io;
use std::path::Path;

use featurestore::{ItemId, UserId};

use crate::ials::{FitIalsError, FoldInScratch, Ials, IalsConfig, Preferences};
use crate::mapped::{Flaw, OpenError};
use crate::vectors::{Vectors, has_direction};

/// Where the vectors come from.
#[derive(Clone, Debug)]
pub enum EmbeddingConfig {
    /// They are fitted to what users did.
    Trained(IalsConfig),
    /// They were trained elsewhere.
    Imported(ImportedVectors),
}

impl EmbeddingConfig {
    /// The embedding. `preferences` are made only if it is fitted to them.
    ///
    /// # Errors
    /// As [`Ials::fit`].
    pub fn fit(
        &self,
        preferences: impl FnOnce() -> Preferences,
    ) -> Result<Embedding, FitIalsError> {
        match self {
            Self::Trained(config) => Ok(Embedding::Trained(Ials::fit(&preferences(), config)?)),
            Self::Imported(vectors) => Ok(Embedding::Imported(vectors.clone())),
        }
    }
}

/// Vectors of items, and what gives a user one.
#[derive(Debug)]
pub enum Embedding {
    /// Users are folded in from their histories.
    Trained(Ials),
    /// Users have a vector of their own, or else the mean of their histories.
    Imported(ImportedVectors),
}

/// A trained embedding, beside its item vectors.
const TRAINED: &str = "embedding.bin";
/// The vectors of users of an imported one, which may be none.
const IMPORTED: &str = "user_vectors.bin";

impl Embedding {
    /// Item vectors, `[n_items, dim]`; zeros for items without one.
    pub fn items(&self) -> &Vectors {
        match self {
            Self::Trained(ials) => ials.items(),
            Self::Imported(vectors) => &vectors.items,
        }
    }

    /// The vector of `user`, who has done `history`: items, each with a weight above 0.
    /// `None` if nothing is known that would give one.
    pub fn user(
        &self,
        user: Option<UserId>,
        history: &[(ItemId, f32)],
        scratch: &mut FoldInScratch,
    ) -> Option<Vec<f32>> {
        match self {
            Self::Trained(ials) => ials.fold_in(history, scratch),
            Self::Imported(vectors) => vectors.user(user, history),
        }
    }

    /// The vector of an item that the embedding does not know, from the vectors of those who prefer it and from `prior`, what
    /// is thought of it without them. `None` if nothing is known that would give one; an imported embedding has none but
    /// `prior`.
    pub fn item(
        &self,
        prior: Option<&[f32]>,
        users: &[(Vec<f32>, f32)],
        scratch: &mut FoldInScratch,
    ) -> Option<Vec<f32>> {
        match self {
            Self::Trained(ials) => ials.fold_in_item(prior, users, scratch),
            Self::Imported(_) => prior.map(<[f32]>::to_vec),
        }
    }

    /// Writes what it takes to give users a vector into a file of `folder`; the item vectors have their own.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        match self {
            Self::Trained(ials) => ials.save(&folder.join(TRAINED)),
            Self::Imported(vectors) => vectors.users.save(&folder.join(IMPORTED)),
        }
    }

    /// Opens what `save` wrote into `folder`, by memory map. `items` are the item vectors that belong to it.
    ///
    /// # Errors
    /// If the file cannot be read, or does not fit `items`.
    pub fn open(folder: &Path, items: &Vectors) -> Result<Self, OpenError> {
        let imported = folder.join(IMPORTED);
        if !imported.exists() {
            return Ok(Self::Trained(Ials::open(&folder.join(TRAINED), items)?));
        }
        let users = Vectors::open(&imported)?;
        if users.dim() != items.dim() {
            let flaw =
                Flaw::Content("its vectors are not as long as those of the items".to_owned());
            return Err(OpenError::Malformed { path: imported, flaw });
        }
        Ok(Self::Imported(ImportedVectors::new(items.clone(), users)))
    }
}

/// Vectors that were trained elsewhere. A clone shares them.
#[derive(Clone, Debug)]
pub struct ImportedVectors {
    items: Vectors,
    /// `[n_users, dim]`, zeros for users without one; users from `n_users` on have none.
    users: Vectors,
}

impl ImportedVectors {
    /// Vectors of items, `[n_items, dim]`, and of users, `[n_users, dim]`, which may have no rows at all.
    ///
    /// # Panics
    /// If they differ in length.
    pub fn new(items: Vectors, users: Vectors) -> Self {
        assert_eq!(items.dim(), users.dim(), "users are multiplied with items");
        Self { items, users }
    }

    /// Item vectors; zeros for items without one.
    pub fn items(&self) -> &Vectors {
        &self.items
    }

    /// The imported vector of `user`, or else the mean of those of `history`, weighted.
    fn user(&self, user: Option<UserId>, history: &[(ItemId, f32)]) -> Option<Vec<f32>> {
        // Rows of users are numbered as those of items are.
        let imported = user.and_then(|user| self.users.get(ItemId(user.0)));
        imported.map(<[f32]>::to_vec).or_else(|| self.mean(history))
    }

    fn mean(&self, history: &[(ItemId, f32)]) -> Option<Vec<f32>> {
        let known = history.iter().filter_map(|&(item, weight)| {
            let usable = weight > 0.0 && weight.is_finite();
            usable.then(|| self.items.get(item)).flatten().map(|row| (row, f64::from(weight)))
        });
        let sum_of_weights: f64 = known.clone().map(|(_, weight)| weight).sum();
        let mut mean = vec![0.0; self.items.dim()];
        for (row, weight) in known {
            let share = weight / sum_of_weights;
            mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += share * f64::from(*value));
        }
        let mean: Vec<f32> = mean.into_iter().map(|value| value as f32).collect();
        has_direction(&mean).then_some(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items 0 and 1 have a vector, 2 has none; user 1 has one.
    fn imported() -> Embedding {
        let items = Vectors::new(vec![1.0, 0.0, 0.0, 2.0, 0.0, 0.0], 2).unwrap();
        let users = Vectors::new(vec![0.0, 0.0, 5.0, 6.0], 2).unwrap();
        Embedding::Imported(ImportedVectors::new(items, users))
    }

    fn vector_of(embedding: &Embedding, user: u32, history: &[(u32, f32)]) -> Option<Vec<f32>> {
        let history: Vec<_> =
            history.iter().map(|(item, weight)| (ItemId(*item), *weight)).collect();
        embedding.user(Some(UserId(user)), &history, &mut FoldInScratch::default())
    }

    #[test]
    fn a_user_is_the_weighted_mean_of_the_items_that_have_a_vector() {
        let mean = vector_of(&imported(), 0, &[(0, 3.0), (1, 1.0), (2, 9.0), (7, 9.0)]);
        assert_eq!(mean, Some(vec![0.75, 0.5]));
    }

    #[test]
    fn an_imported_user_keeps_the_vector_whatever_the_history_is() {
        assert_eq!(vector_of(&imported(), 1, &[(0, 1.0)]), Some(vec![5.0, 6.0]));
        assert_eq!(vector_of(&imported(), 1, &[]), Some(vec![5.0, 6.0]));
    }

    #[test]
    fn nothing_known_gives_no_vector() {
        let embedding = imported();
        assert_eq!(vector_of(&embedding, 0, &[]), None);
        assert_eq!(vector_of(&embedding, 99, &[(2, 1.0), (0, 0.0), (1, f32::NAN)]), None);
        assert_eq!(embedding.user(None, &[], &mut FoldInScratch::default()), None);
    }

    #[test]
    fn vectors_that_cancel_out_give_no_vector() {
        let items = Vectors::new(vec![1.0, 2.0, -1.0, -2.0], 2).unwrap();
        let none = Vectors::new(vec![], 2).unwrap();
        let embedding = Embedding::Imported(ImportedVectors::new(items, none));
        assert_eq!(vector_of(&embedding, 0, &[(0, 1.0), (1, 1.0)]), None);
    }

    #[test]
    fn saving_and_opening_an_imported_embedding_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let items = imported().items().clone();
        for users in [vec![], vec![3.0, 4.0]] {
            let users = Vectors::new(users, 2).unwrap();
            let saved = Embedding::Imported(ImportedVectors::new(items.clone(), users));
            saved.save(folder.path()).unwrap();
            let opened = Embedding::open(folder.path(), &items).unwrap();
            assert!(matches!(opened, Embedding::Imported(_)));
            for user in [0, 1] {
                let history = [(0, 1.0), (1, 2.0)];
                assert_eq!(vector_of(&opened, user, &history), vector_of(&saved, user, &history));
            }
        }
        assert!(Embedding::open(folder.path(), &Vectors::new(vec![1.0; 3], 3).unwrap()).is_err());
    }
}
