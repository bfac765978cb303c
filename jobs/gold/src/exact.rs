//! `sum` and `avg` that are exact: a result is right to the last digit or an error, never a wrapped number.
//!
//! DataFusion's own `sum` and `avg` of decimals and 64-bit integers wrap around on overflow, and `avg` of decimals cuts digits off. These take
//! their place in every session: sums are kept in 256 bits, and
//!
//! | call | result | rule |
//! |---|---|---|
//! | `sum(decimal(p,s))` | `decimal(min(38,p+10), s)` | an error when the sum does not fit |
//! | `sum(bigint)` | `bigint` | an error when the sum does not fit |
//! | `avg(decimal(p,s))` | `decimal(min(38,p+4), min(38,s+4))` | rounded half away from zero at that scale, an error when it does not fit |
//!
//! Other types are summed and averaged by DataFusion itself, and so are `DISTINCT` sums of integers.

mod accumulate;

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Decimal128Array, Int64Array, UInt64Array},
    datatypes::{DECIMAL256_MAX_PRECISION, DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type, i256},
};
use datafusion::{
    common::{DataFusionError, Result, ScalarValue, exec_err, not_impl_err},
    functions_aggregate::{average::avg_udaf, sum::sum_udaf},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature,
        function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs},
        utils::{AggregateOrderSensitivity, format_state_name},
    },
    prelude::SessionContext,
};

/// Puts the exact aggregates in the place of DataFusion's.
pub(crate) fn register(context: &SessionContext) {
    context.register_udaf(AggregateUDF::from(ExactAggregate { kind: Kind::Sum, inner: sum_udaf() }));
    context.register_udaf(AggregateUDF::from(ExactAggregate { kind: Kind::Avg, inner: avg_udaf() }));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Sum,
    Avg,
}

/// `sum` or `avg`; `inner` answers for the types that are not ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ExactAggregate {
    kind: Kind,
    inner: Arc<AggregateUDF>,
}

impl ExactAggregate {
    fn handles(&self, input: &DataType) -> bool {
        match input {
            DataType::Decimal128(..) => true,
            DataType::Int64 | DataType::UInt64 => self.kind == Kind::Sum,
            _ => false,
        }
    }

    /// The rule for these arguments; none when DataFusion's own implementation answers.
    fn rule(&self, arguments: &AccumulatorArgs) -> Result<Option<Rule>> {
        let Some(input) = arguments.expr_fields.first().map(|field| field.data_type()) else { return Ok(None) };
        if !self.handles(input) {
            return Ok(None);
        }
        if arguments.is_distinct {
            return match input {
                DataType::Decimal128(..) => not_impl_err!("{} of DISTINCT decimals: select the distinct values in a subquery", self.name()),
                _ => Ok(None),
            };
        }
        Ok(Some(Rule {
            kind: self.kind,
            input: input.clone(),
            output: arguments.return_field.data_type().clone(),
            name: arguments.name.to_owned(),
        }))
    }
}

impl AggregateUDFImpl for ExactAggregate {
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let input = arguments.input_fields.first().map(|field| field.data_type());
        match input {
            Some(input) if self.handles(input) && !arguments.is_distinct => Ok(vec![
                Arc::new(Field::new(format_state_name(arguments.name, "sum"), sum_type(input), true)),
                Arc::new(Field::new(format_state_name(arguments.name, "count"), DataType::UInt64, true)),
            ]),
            _ => self.inner.state_fields(arguments),
        }
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.rule(&arguments)? {
            Some(rule) => Ok(Box::new(accumulate::One::new(rule))),
            None => self.inner.accumulator(arguments),
        }
    }

    fn create_sliding_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.rule(&arguments)? {
            Some(rule) => Ok(Box::new(accumulate::One::new(rule))),
            None => self.inner.create_sliding_accumulator(arguments),
        }
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs) -> bool {
        match self.rule(&arguments) {
            Ok(Some(_)) => true,
            Ok(None) => self.inner.groups_accumulator_supported(arguments),
            Err(_) => false,
        }
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        match self.rule(&arguments)? {
            Some(rule) => Ok(Box::new(accumulate::Groups::new(rule))),
            None => self.inner.create_groups_accumulator(arguments),
        }
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        None
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// Type of the sum while it grows. 10^38 times 2^64 rows is far below the 10^76 it holds.
fn sum_type(input: &DataType) -> DataType {
    let scale = if let DataType::Decimal128(_, scale) = input { *scale } else { 0 };
    DataType::Decimal256(DECIMAL256_MAX_PRECISION, scale)
}

/// How one aggregate turns a sum and a count into its result.
#[derive(Clone, Debug)]
struct Rule {
    kind: Kind,
    input: DataType,
    output: DataType,
    name: String,
}

impl Rule {
    /// Calls `add` with the row and value of every value that is not null.
    fn each(&self, values: &ArrayRef, mut add: impl FnMut(usize, i256)) -> Result<()> {
        macro_rules! visit {
            ($type:ty, $wide:expr) => {{
                let array = values.as_primitive::<$type>();
                for row in 0..array.len() {
                    if array.is_valid(row) {
                        add(row, $wide(array.value(row)));
                    }
                }
            }};
        }
        match values.data_type() {
            DataType::Decimal128(..) => visit!(Decimal128Type, i256::from_i128),
            DataType::Int64 => visit!(Int64Type, |v| i256::from_i128(i128::from(v))),
            DataType::UInt64 => visit!(UInt64Type, |v| i256::from_i128(i128::from(v))),
            other => return exec_err!("{}: expected {}, found {other}", self.name, self.input),
        }
        Ok(())
    }

    /// The result, null without any row.
    ///
    /// # Errors
    /// `DataFusionError::Execution` when it does not fit the result type.
    fn finish(&self, sum: i256, count: u64) -> Result<Option<i128>> {
        if count == 0 {
            return Ok(None);
        }
        let value = match (self.kind, &self.input, &self.output) {
            (Kind::Avg, DataType::Decimal128(_, from), DataType::Decimal128(_, to)) => self.average(sum, count, *from, *to)?,
            _ => sum,
        };
        let result = value.to_i128().ok_or_else(|| self.overflow(value))?;
        let fits = match self.output {
            DataType::Decimal128(precision, _) => result.unsigned_abs() < 10_u128.pow(u32::from(precision)),
            DataType::Int64 => i64::try_from(result).is_ok(),
            DataType::UInt64 => u64::try_from(result).is_ok(),
            _ => false,
        };
        if fits { Ok(Some(result)) } else { Err(self.overflow(value)) }
    }

    /// `sum / count` at scale `to`, rounded half away from zero.
    fn average(&self, sum: i256, count: u64, from: i8, to: i8) -> Result<i256> {
        let count = i256::from_i128(i128::from(count));
        let widen = i256::from_i128(10).checked_pow(u32::from((to - from).unsigned_abs()));
        let numerator = widen.and_then(|factor| sum.checked_mul(factor)).ok_or_else(|| self.overflow(sum))?;
        let quotient = numerator.wrapping_div(count);
        let remainder = numerator.wrapping_rem(count).wrapping_abs();
        if remainder.wrapping_add(remainder) < count {
            return Ok(quotient);
        }
        Ok(if numerator.is_negative() { quotient.wrapping_sub(i256::ONE) } else { quotient.wrapping_add(i256::ONE) })
    }

    fn overflow(&self, value: i256) -> DataFusionError {
        let word = match self.kind {
            Kind::Sum => "sum",
            Kind::Avg => "average",
        };
        let shown = match &self.output {
            DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
            other => other.to_string(),
        };
        DataFusionError::Execution(format!("{}: the {word} {value} (unscaled) does not fit {shown}: overflow", self.name))
    }

    /// Results as an array of the result type.
    fn array(&self, results: Vec<Option<i128>>) -> Result<ArrayRef> {
        Ok(match self.output {
            DataType::Decimal128(precision, scale) => Arc::new(Decimal128Array::from(results).with_precision_and_scale(precision, scale)?),
            // `finish` checked the range.
            DataType::UInt64 => Arc::new(UInt64Array::from_iter(results.into_iter().map(|r| r.map(|v| v as u64)))),
            _ => Arc::new(Int64Array::from_iter(results.into_iter().map(|r| r.map(|v| v as i64)))),
        })
    }

    fn scalar(&self, result: Option<i128>) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.array(vec![result])?, 0)
    }
}
