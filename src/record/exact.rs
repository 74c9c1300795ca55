//! Finds what JSON writes as `null` although it is none: floats that are not finite, and `Some` of what is `null` itself.
//!
//! serde_json has no setting that refuses them.
use std::fmt;

use serde::ser::{self, Serialize, Serializer};

use crate::error::EncodeError;

pub(super) fn check<T: Serialize + ?Sized>(value: &T) -> Result<(), EncodeError> {
    match value.serialize(ExactnessCheck) {
        Ok(_) | Err(Inexact::ByItself) => Ok(()),
        Err(Inexact::NonFinite) => Err(EncodeError::NonFinite),
        Err(Inexact::NestedOption) => Err(EncodeError::NestedOption),
    }
}

/// Writes nothing, and fails at the first value that would not come back.
#[derive(Clone, Copy)]
struct ExactnessCheck;

/// What a value is as JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Null,
    Other,
}

#[derive(Debug)]
enum Inexact {
    NonFinite,
    NestedOption,
    /// The value's own `Serialize` failed: serde_json has reported that before.
    ByItself,
}

impl fmt::Display for Inexact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value would not come back as it is")
    }
}

impl std::error::Error for Inexact {}

impl ser::Error for Inexact {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::ByItself
    }
}

type Checked = Result<Form, Inexact>;
type Done = Result<(), Inexact>;

macro_rules! pass {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method(self, _: $type) -> Checked { Ok(Form::Other) })*
    };
}

impl Serializer for ExactnessCheck {
    type Ok = Form;
    type Error = Inexact;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    pass! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_i128: i128, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_u128: u128, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8],
    }

    fn serialize_f32(self, value: f32) -> Checked {
        if value.is_finite() { Ok(Form::Other) } else { Err(Inexact::NonFinite) }
    }
    fn serialize_f64(self, value: f64) -> Checked {
        if value.is_finite() { Ok(Form::Other) } else { Err(Inexact::NonFinite) }
    }
    fn serialize_none(self) -> Checked {
        Ok(Form::Null)
    }
    fn serialize_unit(self) -> Checked {
        Ok(Form::Null)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Checked {
        Ok(Form::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Checked {
        match value.serialize(self)? {
            Form::Null => Err(Inexact::NestedOption),
            Form::Other => Ok(Form::Other),
        }
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Checked {
        Ok(Form::Other)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Checked {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Checked {
        value.serialize(self).map(|_| Form::Other)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Inexact> {
        Ok(self)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, Inexact> {
        Ok(self)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Inexact> {
        Ok(self)
    }
    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Inexact> {
        Ok(self)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self, Inexact> {
        Ok(self)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Inexact> {
        Ok(self)
    }
    fn serialize_struct_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Inexact> {
        Ok(self)
    }
}

macro_rules! items {
    ($($trait:ident :: $method:ident ( $($name:ty)? )),* $(,)?) => {
        $(impl ser::$trait for ExactnessCheck {
            type Ok = Form;
            type Error = Inexact;

            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $name,)? value: &T) -> Done {
                value.serialize(*self).map(drop)
            }
            fn end(self) -> Checked {
                Ok(Form::Other)
            }
        })*
    };
}

items! {
    SerializeSeq::serialize_element(),
    SerializeTuple::serialize_element(),
    SerializeTupleStruct::serialize_field(),
    SerializeTupleVariant::serialize_field(),
    SerializeStruct::serialize_field(&'static str),
    SerializeStructVariant::serialize_field(&'static str),
}

impl ser::SerializeMap for ExactnessCheck {
    type Ok = Form;
    type Error = Inexact;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(*self).map(drop)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(*self).map(drop)
    }
    fn end(self) -> Checked {
        Ok(Form::Other)
    }
}
