use super::*;
use arrow::datatypes::Schema;
use lakehouse_contract::TableRef;
use std::sync::Arc;

type Column = (&'static str, DataType, bool);

const OPTIONAL: bool = true;
const REQUIRED: bool = false;

fn fields(columns: &[Column]) -> Vec<FieldRef> {
    columns.iter().map(|(name, kind, nullable)| Arc::new(Field::new(*name, kind.clone(), *nullable))).collect()
}

/// A table of `long id`, `int n`, `string s`, `decimal(9,2) d`, in this order; id is required.
fn base() -> Vec<Column> {
    vec![
        ("id", DataType::Int64, REQUIRED),
        ("n", DataType::Int32, OPTIONAL),
        ("s", DataType::Utf8, OPTIONAL),
        ("d", DataType::Decimal128(9, 2), OPTIONAL),
    ]
}

struct Case {
    existing: Existing,
    definition: TableDef,
}

impl Case {
    fn of(existing: &[Column], wanted: &[Column]) -> Self {
        Self {
            existing: Existing {
                format: TableFormat::Iceberg,
                columns: fields(existing),
                partitions: Vec::new(),
                sort_by: Vec::new(),
                bloom_filters: Vec::new(),
            },
            definition: TableDef {
                table: TableRef::new("silver", "t"),
                format: TableFormat::Iceberg,
                schema: Arc::new(Schema::new(fields(wanted))),
                partition_by: Vec::new(),
                sort_by: Vec::new(),
                bloom_filters: Vec::new(),
                owner: "local/p".to_owned(),
                properties: BTreeMap::new(),
                declared: Declared::default(),
            },
        }
    }

    fn renamed(mut self, to: &str, from: &str) -> Self {
        self.definition.declared.renamed.insert(to.to_owned(), from.to_owned());
        self
    }

    fn dropped(mut self, name: &str) -> Self {
        self.definition.declared.dropped.push(name.to_owned());
        self
    }

    /// Partitions of the table, and of the definition.
    fn partitioned(mut self, existing: &str, wanted: &str) -> Self {
        let field: PartitionField = existing.parse().unwrap();
        let name = field.name();
        self.existing.partitions.push(ExistingPartition { name, column: field.column, transform: Some(field.transform) });
        self.definition.partition_by.push(wanted.parse().unwrap());
        self
    }

    fn with_bloom_filters(mut self, existing: &[&str], wanted: &[&str]) -> Self {
        self.existing.bloom_filters = existing.iter().map(ToString::to_string).collect();
        self.definition.bloom_filters = wanted.iter().map(ToString::to_string).collect();
        self
    }

    fn sorted(mut self, existing: &[&str], wanted: &[&str]) -> Self {
        self.existing.sort_by = existing.iter().map(ToString::to_string).collect();
        self.definition.sort_by = wanted.iter().map(ToString::to_string).collect();
        self
    }

    /// The changes, which must not be refused.
    fn changes(&self) -> Vec<String> {
        let planned = plan(&self.definition, &self.existing);
        assert_eq!(planned.refused, Vec::<String>::new());
        planned.changes.iter().map(ToString::to_string).collect()
    }

    /// Every refusal, up to the first colon or comma.
    fn refused(&self) -> Vec<String> {
        let planned = plan(&self.definition, &self.existing);
        planned.refused.iter().map(|text| text.split(':').next().unwrap_or_default().to_owned()).collect()
    }
}

fn with(changed: &[(usize, Column)]) -> Vec<Column> {
    let mut columns = base();
    for (index, column) in changed {
        columns[*index] = column.clone();
    }
    columns
}

fn reordered(order: &[usize]) -> Vec<Column> {
    order.iter().map(|index| base()[*index].clone()).collect()
}

#[test]
fn equal_tables_do_not_change() {
    assert!(Case::of(&base(), &base()).changes().is_empty());
    let zoned = |zone: &str| vec![("at", DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into())), REQUIRED)];
    assert!(Case::of(&zoned("UTC"), &zoned("+00:00")).changes().is_empty());
}

#[test]
fn columns_are_added_where_the_definition_has_them() {
    let mut wanted = base();
    wanted.insert(1, ("x", DataType::Date32, OPTIONAL));
    let case = Case::of(&base(), &wanted);
    assert_eq!(case.changes(), ["add column x date"]);
    let sources: Vec<Option<usize>> = plan(&case.definition, &case.existing).columns.iter().map(|column| column.source).collect();
    assert_eq!(sources, [Some(0), None, Some(1), Some(2), Some(3)]);
}

#[test]
fn a_required_column_cannot_be_added() {
    let mut wanted = base();
    wanted.push(("x", DataType::Date32, REQUIRED));
    assert_eq!(Case::of(&base(), &wanted).refused(), ["new column x is required, but the rows of the table lack it"]);
}

#[test]
fn a_rename_keeps_the_column_and_is_done_once() {
    let wanted = with(&[(2, ("text", DataType::Utf8, OPTIONAL))]);
    let case = Case::of(&base(), &wanted).renamed("text", "s");
    assert_eq!(case.changes(), ["rename column s to text"]);
    assert_eq!(plan(&case.definition, &case.existing).columns[2].source, Some(2));
    assert!(Case::of(&wanted, &wanted).renamed("text", "s").changes().is_empty());
    // Neither is there: the column is new.
    let mut without = base();
    without.remove(2);
    assert_eq!(Case::of(&without, &wanted).renamed("text", "s").changes(), ["add column text string"]);
}

#[test]
fn a_rename_to_a_name_that_is_there_is_ambiguous() {
    let mut existing = base();
    existing.push(("text", DataType::Utf8, OPTIONAL));
    let wanted = with(&[(2, ("text", DataType::Utf8, OPTIONAL))]);
    let refused = Case::of(&existing, &wanted).renamed("text", "s").refused();
    assert_eq!(refused, ["column text is renamed from s, and the table has both"]);
}

#[test]
fn a_missing_column_is_dropped_only_when_it_is_declared() {
    let mut wanted = base();
    wanted.remove(2);
    let case = Case::of(&base(), &wanted);
    let planned = plan(&case.definition, &case.existing);
    assert_eq!(
        planned.refused,
        [
            "column s of the table is not in the definition: list it in droppedColumns to drop it with its values, or say at the column that takes its place that it is renamed from s"
        ]
    );
    assert_eq!(case.dropped("s").changes(), ["drop column s"]);
    assert!(Case::of(&wanted, &wanted).dropped("s").changes().is_empty());
}

#[test]
fn a_typing_mistake_never_costs_a_column() {
    let wanted = with(&[(2, ("ss", DataType::Utf8, OPTIONAL))]);
    assert_eq!(Case::of(&base(), &wanted).refused(), ["column s of the table is not in the definition"]);
    assert_eq!(Case::of(&base(), &wanted).dropped("other").refused(), ["column s of the table is not in the definition"]);
}

#[test]
fn types_become_wider_and_nothing_else() {
    use DataType::{Boolean, Date32, Decimal128, Float32, Float64, Int32, Int64, Timestamp, Utf8};
    let micros = || Timestamp(TimeUnit::Microsecond, None);
    let zoned = || Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let kinds =
        [Boolean, Int32, Int64, Float32, Float64, Decimal128(9, 2), Decimal128(10, 2), Decimal128(10, 3), Date32, micros(), zoned(), Utf8];
    let mut wider = Vec::new();
    for from in &kinds {
        for to in &kinds {
            let case = Case::of(&[("c", from.clone(), OPTIONAL)], &[("c", to.clone(), OPTIONAL)]);
            let planned = plan(&case.definition, &case.existing);
            assert_eq!(planned.refused.len() + planned.changes.len(), usize::from(from != to), "{from} {to}");
            wider.extend(planned.changes.iter().map(ToString::to_string));
        }
    }
    assert_eq!(
        wider,
        ["widen column c from int to long", "widen column c from float to double", "widen column c from decimal(9,2) to decimal(10,2)"]
    );
    let refused = Case::of(&base(), &with(&[(2, ("s", DataType::Int64, OPTIONAL))])).refused();
    assert_eq!(refused, ["column s is string, the definition says long"]);
}

#[test]
fn optional_is_allowed_and_required_is_not() {
    assert_eq!(Case::of(&base(), &with(&[(0, ("id", DataType::Int64, OPTIONAL))])).changes(), ["make column id optional"]);
    let refused = Case::of(&base(), &with(&[(1, ("n", DataType::Int32, REQUIRED))])).refused();
    assert_eq!(refused, ["column n is optional in the table and required in the definition"]);
}

#[test]
fn the_fewest_columns_move() {
    assert_eq!(Case::of(&base(), &reordered(&[3, 0, 1, 2])).changes(), ["move column d to the front"]);
    assert_eq!(Case::of(&base(), &reordered(&[0, 2, 3, 1])).changes(), ["move column n behind d"]);
    assert_eq!(Case::of(&base(), &reordered(&[3, 2, 1, 0])).changes().len(), 3);
    let mut wanted = reordered(&[0, 2, 1, 3]);
    wanted.insert(0, ("x", DataType::Utf8, OPTIONAL));
    assert_eq!(Case::of(&base(), &wanted).changes(), ["add column x string", "move column n behind s"]);
}

#[test]
fn everything_at_once() {
    let wanted = [
        ("amount", DataType::Decimal128(12, 2), OPTIONAL),
        ("id", DataType::Int64, OPTIONAL),
        ("note", DataType::Utf8, OPTIONAL),
        ("n", DataType::Int64, OPTIONAL),
    ];
    let case = Case::of(&base(), &wanted).renamed("amount", "d").dropped("s");
    assert_eq!(
        case.changes(),
        [
            "rename column d to amount",
            "widen column amount from decimal(9,2) to decimal(12,2)",
            "make column id optional",
            "widen column n from int to long",
            "add column note string",
            "drop column s",
            "move column amount to the front",
        ]
    );
    let planned = plan(&case.definition, &case.existing);
    assert_eq!(planned.columns.iter().map(|column| column.source).collect::<Vec<_>>(), [Some(3), Some(0), None, Some(1)]);
}

#[test]
fn every_refusal_is_said() {
    let wanted = [("id", DataType::Utf8, REQUIRED), ("n", DataType::Int32, REQUIRED), ("x", DataType::Utf8, REQUIRED)];
    let case = Case::of(&base(), &wanted).partitioned("bucket(4, id)", "id");
    assert_eq!(case.refused().len(), 6, "{:?}", case.refused());
}

#[test]
fn partitions_stay() {
    let refused = Case::of(&base(), &base()).partitioned("bucket(4, id)", "bucket(8, id)").refused();
    assert_eq!(refused, ["it has the partitions [bucket(4, id)], the definition says [bucket(8, id)]"]);
    let mut unknown = Case::of(&base(), &base()).partitioned("s", "s");
    unknown.existing.partitions[0].transform = None;
    assert_eq!(unknown.refused(), ["it has the partitions [unknown(s)], the definition says [s]"]);
}

#[test]
fn the_source_of_a_partition_can_be_renamed_and_not_dropped() {
    let wanted = with(&[(2, ("text", DataType::Utf8, OPTIONAL))]);
    assert_eq!(Case::of(&base(), &wanted).renamed("text", "s").partitioned("s", "text").changes(), ["rename column s to text"]);
    let mut without = base();
    without.remove(2);
    let refused = Case::of(&base(), &without).dropped("s").partitioned("s", "s").refused();
    assert_eq!(refused, ["column s cannot be dropped"]);
    // The name of the partition field stays taken.
    let mut again = wanted;
    again.push(("s", DataType::Utf8, OPTIONAL));
    let existing = with(&[(2, ("text", DataType::Utf8, OPTIONAL))]);
    let mut case = Case::of(&existing, &again).partitioned("text", "text");
    case.existing.partitions[0].name = "s".to_owned();
    assert_eq!(case.refused(), ["column s cannot have this name"]);
}

#[test]
fn the_source_of_a_partition_widens_only_below_a_bucket() {
    let wanted = with(&[(1, ("n", DataType::Int64, OPTIONAL))]);
    assert_eq!(Case::of(&base(), &wanted).partitioned("bucket(4, n)", "bucket(4, n)").changes(), ["widen column n from int to long"]);
    for field in ["n", "truncate(10, n)"] {
        assert_eq!(Case::of(&base(), &wanted).partitioned(field, field).refused(), ["column n is int, the definition says long"]);
    }
}

#[test]
fn the_order_of_rows_may_change() {
    assert_eq!(Case::of(&base(), &base()).sorted(&["id"], &["s", "id"]).changes(), ["sort new files by [s, id], not by [id]"]);
    let wanted = with(&[(2, ("text", DataType::Utf8, OPTIONAL))]);
    assert_eq!(Case::of(&base(), &wanted).renamed("text", "s").sorted(&["s"], &["text"]).changes(), ["rename column s to text"]);
    let mut without = base();
    without.remove(2);
    let dropped = Case::of(&base(), &without).dropped("s").sorted(&["s"], &[]).changes();
    assert_eq!(dropped, ["drop column s", "sort new files by [], not by [s]"]);
}

#[test]
fn bloom_filters_follow_the_definition_in_any_order() {
    let changed = Case::of(&base(), &base()).with_bloom_filters(&["id"], &["id", "s"]).changes();
    assert_eq!(changed, ["Bloom filters in new files on [id, s], not on [id]"]);
    assert_eq!(Case::of(&base(), &base()).with_bloom_filters(&["id", "s"], &["s", "id"]).changes(), [""; 0]);
    let wanted = with(&[(2, ("text", DataType::Utf8, OPTIONAL))]);
    let renamed = Case::of(&base(), &wanted).renamed("text", "s").with_bloom_filters(&["s"], &["text"]).changes();
    assert_eq!(renamed, ["rename column s to text"]);
}

#[test]
fn parquet_takes_what_its_files_allow() {
    let mut wanted = reordered(&[3, 0, 1, 2]);
    wanted.push(("x", DataType::Utf8, OPTIONAL));
    wanted[1].2 = OPTIONAL;
    let mut case = Case::of(&base(), &wanted).sorted(&[], &["id"]);
    case.existing.format = TableFormat::Parquet;
    assert_eq!(case.changes().len(), 4);
    let wanted = [("id", DataType::Int64, REQUIRED), ("n", DataType::Int64, OPTIONAL), ("text", DataType::Utf8, OPTIONAL)];
    let mut case = Case::of(&base(), &wanted).renamed("text", "s").dropped("d");
    assert_eq!(case.changes().len(), 3);
    case.existing.format = TableFormat::Parquet;
    assert_eq!(case.refused(), ["column s cannot become text", "column n is int, the definition says long", "column d cannot be dropped"]);
}
