//! Vectors of items that nobody has done anything with yet, from their fields: for items newer than the models.
//!
//! A vector is a mean and one part for each value of a category field that the item has: a ridge regression on one-hot
//! columns, solved field by field, each against what the others leave (block coordinate descent, whose limit is the
//! solution of all at once).

use std::io;
use std::path::Path;

use featurestore::entities::Entities;
use featurestore::schema::FieldKind;

use crate::mapped::{Mapped, OpenError, write_sections};
use crate::vectors::{Vectors, has_direction};

const KIND: &[u8; 8] = b"fieldvec";

/// How often every field is fitted.
const ROUNDS: usize = 8;

/// A value with so many items takes half of what they say: the strength of the ridge.
const RIDGE: f64 = 5.0;

/// What the values of category fields say about the vector of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldVectors {
    dim: usize,
    /// `[dim]`, the mean of all vectors.
    mean: Vec<f32>,
    fields: Vec<FieldPart>,
}

#[derive(Clone, Debug, PartialEq)]
struct FieldPart {
    /// Position of the field among those of the items.
    position: usize,
    /// `[n_codes, dim]`, zeros for a value that no item with a vector has.
    rows: Vec<f32>,
}

impl FieldVectors {
    /// Fits them to the rows of `vectors` that are not zero, of the first of `items`. Cost: O(rounds * items * fields * dim).
    pub fn fit(vectors: &Vectors, items: &Entities) -> Self {
        let dim = vectors.dim();
        let known: Vec<(u32, &[f32])> = vectors
            .iter()
            .filter(|(_, row)| has_direction(row))
            .map(|(item, row)| (item.0, row))
            .collect();
        let mut mean = vec![0.0; dim];
        for (_, row) in &known {
            mean.iter_mut().zip(*row).for_each(|(sum, x)| *sum += x / known.len() as f32);
        }
        let residual =
            |(_, row): &(u32, &[f32])| row.iter().zip(&mean).map(|(x, m)| x - m).collect();
        let mut residuals: Vec<Vec<f32>> = known.iter().map(residual).collect();
        let categories = (0..items.n_fields()).filter(|i| items.kind(*i) == FieldKind::Category);
        let mut fields: Vec<FieldPart> = categories
            .map(|position| {
                let codes = known.iter().flat_map(|(id, _)| items.column(position).codes(*id));
                let n_codes = codes.max().map_or(0, |code| code as usize + 1);
                FieldPart { position, rows: vec![0.0; n_codes * dim] }
            })
            .collect();
        for _ in 0..ROUNDS {
            for field in &mut fields {
                field.fit(&known, items, &mut residuals, dim);
            }
        }
        Self { dim, mean, fields }
    }

    /// The vector that the fields of the item `id` say it has; `None` if they say nothing.
    pub fn vector(&self, items: &Entities, id: u32) -> Option<Vec<f32>> {
        let (mut vector, mut is_known) = (self.mean.clone(), false);
        for FieldPart { position, rows } in &self.fields {
            if *position >= items.n_fields() {
                return None;
            }
            for code in items.column(*position).codes(id) {
                let row = rows.chunks_exact(self.dim).nth(code as usize);
                let Some(row) = row.filter(|row| has_direction(row)) else { continue };
                vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                is_known = true;
            }
        }
        is_known.then_some(vector)
    }

    /// Writes them into a file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut shape = vec![self.dim as u64];
        let mut values = self.mean.clone();
        for FieldPart { position, rows } in &self.fields {
            shape.extend([*position as u64, (rows.len() / self.dim) as u64]);
            values.extend(rows);
        }
        write_sections(path, KIND, &[bytemuck::cast_slice(&shape), bytemuck::cast_slice(&values)])
    }

    /// Reads what `save` wrote, for vectors of `dim` dimensions.
    ///
    /// # Errors
    /// If the file cannot be read, or contradicts itself.
    pub fn open(path: &Path, dim: usize) -> Result<Self, OpenError> {
        let file = Mapped::open(path, KIND, 2)?;
        let (shape, mut values) = (file.u64s(0)?, file.f32s(1)?);
        let wrong = || file.contradiction("its parts do not fit its shape");
        let Some((first, parts)) = shape.split_first() else { return Err(wrong()) };
        if *first != dim as u64 || values.iter().any(|value| !value.is_finite()) {
            return Err(wrong());
        }
        let mut take = |n: usize| values.split_off(..n).map(<[f32]>::to_vec);
        let mean = take(dim).ok_or_else(wrong)?;
        let (pairs, odd) = parts.as_chunks::<2>();
        let part = |[position, n_codes]: &[u64; 2]| {
            let position = usize::try_from(*position).ok()?;
            let n = usize::try_from(*n_codes).ok()?.checked_mul(dim)?;
            Some(FieldPart { position, rows: take(n)? })
        };
        let fields: Option<Vec<FieldPart>> = pairs.iter().map(part).collect();
        match fields {
            Some(fields) if odd.is_empty() && values.is_empty() => Ok(Self { dim, mean, fields }),
            _ => Err(wrong()),
        }
    }
}

impl FieldPart {
    /// Fits the values of this field to what all other fields leave of `known`, and leaves what it leaves in `residuals`.
    fn fit(
        &mut self,
        known: &[(u32, &[f32])],
        items: &Entities,
        residuals: &mut [Vec<f32>],
        dim: usize,
    ) {
        let column = items.column(self.position);
        let mut sums = vec![0.0f64; self.rows.len()];
        let mut counts = vec![0.0f64; self.rows.len() / dim];
        for ((id, _), residual) in known.iter().zip(&*residuals) {
            for code in column.codes(*id) {
                let at = code as usize * dim;
                counts[code as usize] += 1.0;
                let old = &self.rows[at..at + dim];
                for ((sum, left), old) in sums[at..at + dim].iter_mut().zip(residual).zip(old) {
                    *sum += f64::from(left + old);
                }
            }
        }
        let rows: Vec<f32> = sums
            .iter()
            .enumerate()
            .map(|(i, sum)| (sum / (counts[i / dim] + RIDGE)) as f32)
            .collect();
        for ((id, _), residual) in known.iter().zip(residuals) {
            for code in column.codes(*id) {
                let at = code as usize * dim;
                let (old, new) = (&self.rows[at..at + dim], &rows[at..at + dim]);
                for ((left, old), new) in residual.iter_mut().zip(old).zip(new) {
                    *left += old - new;
                }
            }
        }
        self.rows = rows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::cosine;
    use featurestore::Value;

    /// Items in two fields whose values have vectors of their own; every ninth item has none.
    fn items() -> (Vectors, Entities) {
        let schema =
            [("brand".to_owned(), FieldKind::Category), ("kind".to_owned(), FieldKind::Category)];
        let mut items = Entities::new(&std::collections::BTreeMap::from(schema));
        let mut rows = Vec::new();
        for i in 0..400u32 {
            let id = items.intern(&format!("i{i}"));
            let (brand, kind) = (i % 5, i % 7);
            let text = |name: &str, value: u32| {
                (name.into(), Value::Text(format!("{name}{value}").into()))
            };
            items.put(id, &[text("brand", brand), text("kind", kind)].into());
            let noise = ((i * 37 % 11) as f32 - 5.0) / 50.0;
            let row = [
                (brand as f32).cos() + noise,
                (kind as f32).sin(),
                (brand * 2) as f32 / 4.0 - noise,
            ];
            rows.extend(if i % 9 == 0 { [0.0; 3] } else { row });
        }
        (Vectors::new(rows, 3).unwrap(), items)
    }

    #[test]
    fn an_item_without_a_vector_gets_that_of_its_fields() {
        let (vectors, items) = items();
        let fitted = FieldVectors::fit(&vectors, &items);
        for i in (0..400u32).step_by(9) {
            let (brand, kind) = ((i % 5) as f32, (i % 7) as f32);
            let expected = [brand.cos(), kind.sin(), brand / 2.0];
            let vector = fitted.vector(&items, i).unwrap();
            assert!(cosine(&vector, &expected) > 0.95, "{i}: {vector:?} {expected:?}");
        }
    }

    #[test]
    fn an_item_without_known_values_has_no_vector() {
        let (vectors, mut items) = items();
        let fitted = FieldVectors::fit(&vectors, &items);
        let id = items.intern("later");
        assert_eq!(fitted.vector(&items, id), None);
        items.put(id, &[("brand".into(), Value::Text("never seen".into()))].into());
        assert_eq!(fitted.vector(&items, id), None);
        items.put(id, &[("kind".into(), Value::Text("kind3".into()))].into());
        assert!(fitted.vector(&items, id).is_some());
    }

    #[test]
    fn a_file_holds_what_was_fitted_and_no_cut_of_it_opens() {
        let (vectors, items) = items();
        let fitted = FieldVectors::fit(&vectors, &items);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.bin");
        fitted.save(&path).unwrap();
        assert_eq!(FieldVectors::open(&path, 3).unwrap(), fitted);
        assert!(FieldVectors::open(&path, 4).is_err());
        let bytes = std::fs::read(&path).unwrap();
        for n in 0..bytes.len() {
            std::fs::write(&path, &bytes[..n]).unwrap();
            assert!(FieldVectors::open(&path, 3).is_err(), "cut at {n}");
        }
    }
}
