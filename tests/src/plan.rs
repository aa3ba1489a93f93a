//! Feature plans for those who use the stores without the product.

use std::sync::Arc;

use featurestore::plan::PlanBuilder;
use featurestore::schema::FeatureEntry;
use featurestore::{FeaturePlan, Schema};

/// The plan of the `features` that `table` lists, TOML as in the configuration, with one column each.
///
/// # Panics
/// If it does not list features that `schema` allows.
pub fn plan_of(table: &str, schema: &Schema) -> Arc<FeaturePlan> {
    let table: toml::Table = table.parse().expect("it is TOML");
    let entries: Vec<FeatureEntry> = table["features"].clone().try_into().expect("features");
    let mut builder = PlanBuilder::new(schema);
    for (column, entry) in entries.iter().enumerate() {
        assert!(builder.feature(column, &entry.resolve(schema).expect("it is known")));
    }
    Arc::new(builder.build())
}
