//! The state of an exact aggregate: a 256-bit sum and a count, for one group or for many.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Decimal256Array, UInt64Array},
    datatypes::{DataType, Decimal256Type, UInt64Type, i256},
};
use datafusion::{
    common::{Result, ScalarValue},
    logical_expr::{Accumulator, EmitTo, GroupsAccumulator},
};

use super::{Rule, sum_type};

/// One group, or one window frame.
#[derive(Debug)]
pub(super) struct One {
    rule: Rule,
    sum: i256,
    count: u64,
}

impl One {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, sum: i256::ZERO, count: 0 }
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = (&mut self.sum, &mut self.count);
        self.rule.each(&values[0], |_, value| {
            *sum = sum.wrapping_add(value);
            *count += 1;
        })
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = (&mut self.sum, &mut self.count);
        self.rule.each(&values[0], |_, value| {
            *sum = sum.wrapping_sub(value);
            *count -= 1;
        })
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.rule.scalar(self.rule.finish(self.sum, self.count)?)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let DataType::Decimal256(precision, scale) = sum_type(&self.rule.input) else { return Ok(Vec::new()) };
        Ok(vec![ScalarValue::Decimal256(Some(self.sum), precision, scale), ScalarValue::UInt64(Some(self.count))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (sums, counts) = (states[0].as_primitive::<Decimal256Type>(), states[1].as_primitive::<UInt64Type>());
        for (sum, count) in sums.iter().zip(counts) {
            self.sum = self.sum.wrapping_add(sum.unwrap_or(i256::ZERO));
            self.count += count.unwrap_or_default();
        }
        Ok(())
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

/// Many groups.
#[derive(Debug)]
pub(super) struct Groups {
    rule: Rule,
    sums: Vec<i256>,
    counts: Vec<u64>,
}

impl Groups {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, sums: Vec::new(), counts: Vec::new() }
    }

    fn resize(&mut self, groups: usize) {
        self.sums.resize(groups, i256::ZERO);
        self.counts.resize(groups, 0);
    }

    fn sum_array(&self, sums: Vec<i256>) -> Result<ArrayRef> {
        let array = Decimal256Array::from_iter_values(sums);
        Ok(Arc::new(match sum_type(&self.rule.input) {
            DataType::Decimal256(precision, scale) => array.with_precision_and_scale(precision, scale)?,
            _ => array,
        }))
    }
}

/// Whether a filter lets `row` through.
fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

impl GroupsAccumulator for Groups {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.resize(total);
        let (sums, counts) = (&mut self.sums, &mut self.counts);
        self.rule.each(&values[0], |row, value| {
            if passes(filter, row) {
                let group = groups[row];
                sums[group] = sums[group].wrapping_add(value);
                counts[group] += 1;
            }
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.resize(total);
        let (sums, counts) = (states[0].as_primitive::<Decimal256Type>(), states[1].as_primitive::<UInt64Type>());
        for (row, group) in groups.iter().enumerate() {
            if passes(filter, row) && sums.is_valid(row) && counts.is_valid(row) {
                self.sums[*group] = self.sums[*group].wrapping_add(sums.value(row));
                self.counts[*group] += counts.value(row);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let (sums, counts) = (emit.take_needed(&mut self.sums), emit.take_needed(&mut self.counts));
        let results = sums.into_iter().zip(counts).map(|(sum, count)| self.rule.finish(sum, count)).collect::<Result<_>>()?;
        self.rule.array(results)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (sums, counts) = (emit.take_needed(&mut self.sums), emit.take_needed(&mut self.counts));
        Ok(vec![self.sum_array(sums)?, Arc::new(UInt64Array::from(counts))])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let (mut sums, mut counts) = (vec![i256::ZERO; values[0].len()], vec![0_u64; values[0].len()]);
        self.rule.each(&values[0], |row, value| {
            if passes(filter, row) {
                sums[row] = value;
                counts[row] = 1;
            }
        })?;
        Ok(vec![self.sum_array(sums)?, Arc::new(UInt64Array::from(counts))])
    }

    fn supports_convert_to_state(&self) -> bool {
        true
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i256>() + self.counts.capacity() * size_of::<u64>()
    }
}
