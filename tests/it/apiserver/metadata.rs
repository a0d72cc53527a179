//! Reading and writing `metadata` of an object that is plain JSON.

use serde_json::{Map, Value};

/// Access to the metadata that the server's rules are about. Missing text reads as empty.
pub(super) trait Metadata {
    fn metadata(&self, field: &str) -> &Value;
    fn text(&self, field: &str) -> &str;
    fn finalizers(&self) -> impl Iterator<Item = &str>;
    fn owners(&self) -> &[Value];
    fn generation(&self) -> i64;
    fn is_deleting(&self) -> bool;
    fn set_metadata(&mut self, field: &str, value: Value);
    /// Takes `field` from `other`, or removes it where `other` has none.
    fn take_metadata(&mut self, field: &str, other: &Value);
    /// Drops empty fields, as the typed metadata of the real server does on its way through.
    fn normalize_metadata(&mut self);
}

fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let object = object.as_object_mut()?;
    object.entry("metadata").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

impl Metadata for Value {
    fn metadata(&self, field: &str) -> &Value {
        &self["metadata"][field]
    }

    fn text(&self, field: &str) -> &str {
        self.metadata(field).as_str().unwrap_or_default()
    }

    fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.metadata("finalizers").as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    fn owners(&self) -> &[Value] {
        self.metadata("ownerReferences").as_array().map_or(&[], Vec::as_slice)
    }

    fn generation(&self) -> i64 {
        self.metadata("generation").as_i64().unwrap_or(0)
    }

    fn is_deleting(&self) -> bool {
        !self.metadata("deletionTimestamp").is_null()
    }

    fn set_metadata(&mut self, field: &str, value: Value) {
        if let Some(metadata) = metadata_mut(self) {
            metadata.insert(field.to_owned(), value);
        }
    }

    fn take_metadata(&mut self, field: &str, other: &Value) {
        let value = other.metadata(field);
        if let Some(metadata) = metadata_mut(self) {
            if value.is_null() {
                metadata.remove(field);
            } else if metadata.get(field) != Some(value) {
                metadata.insert(field.to_owned(), value.clone());
            }
        }
    }

    fn normalize_metadata(&mut self) {
        if let Some(metadata) = metadata_mut(self) {
            metadata.retain(|_, value| match value {
                Value::Null => false,
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => !fields.is_empty(),
                Value::Bool(_) | Value::Number(_) => true,
            });
        }
    }
}
