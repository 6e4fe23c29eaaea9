"""pve-traffic-monitor's tables, as views: `traffic_records` (bytes as they stood after each minute),
`action_logs`, `vm_states`.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
OF = "vantage = 'hypervisor' AND kind = 'machine'"


def upgrade() -> None:
    kind = op.get_bind().dialect.name
    mysql = kind in ("mysql", "mariadb")

    def vmid(name: str) -> str:
        """The number; nothing where a hypervisor gives names."""
        if kind == "sqlite":
            text = f"substr({name}, 1, instr({name} || '@', '@') - 1)"
            return f"CASE WHEN {text} NOT GLOB '*[^0-9]*' THEN CAST({text} AS INTEGER) END"
        text = f"substring_index({name}, '@', 1)" if mysql else f"split_part({name}, '@', 1)"
        like, number = ("REGEXP", "UNSIGNED") if mysql else ("~", "BIGINT")
        return f"CASE WHEN {text} {like} '^[0-9]+$' THEN CAST({text} AS {number}) END"

    def moment(name: str) -> str:
        if kind == "sqlite":
            return f"datetime({name}, 'unixepoch')"
        return f"FROM_UNIXTIME({name})" if mysql else f"to_timestamp({name})"

    states = {
        "sqlite": "json_group_object(effect, json(original))",
        "postgresql": "CAST(json_object_agg(effect, CAST(original AS json)) AS text)",
    }.get(kind, "JSON_OBJECTAGG(effect, original)")
    over = "OVER (PARTITION BY m.subject_id ORDER BY m.time, m.source_id)"
    op.execute(
        f"""CREATE VIEW traffic_records AS
        SELECT {vmid("s.name")} AS vmid, 'all' AS network_interface, {moment("m.time")} AS "timestamp",
            SUM(m.rx_bytes) {over} AS rx_bytes, SUM(m.tx_bytes) {over} AS tx_bytes,
            SUM(m.rx_bytes + m.tx_bytes) {over} AS total_bytes
        FROM ledger_minute m JOIN ledger_subject s ON s.id = m.subject_id
        WHERE s.vantage = 'hypervisor' AND s.kind = 'machine'""".replace('"', "`" if mysql else '"')
    )
    op.execute(
        f"""CREATE VIEW action_logs AS
        SELECT id, {vmid("subject")} AS vmid, rule AS rule_name, CASE WHEN outcome = 'undone' THEN {_joined(mysql)} ELSE action END AS action,
            reason, {moment("time")} AS "timestamp", outcome IN ('done', 'undone') AS success, error
        FROM ledger_action WHERE {OF}""".replace('"', "`" if mysql else '"')  # noqa: E501
    )
    op.execute(f"""CREATE VIEW vm_states AS
        SELECT {vmid("subject")} AS vmid, {states} AS state_data, {moment("MAX(since)")} AS updated_at
        FROM ledger_effect WHERE {OF} GROUP BY subject""")


def _joined(mysql: bool) -> str:
    return "CONCAT('undo ', action)" if mysql else "'undo ' || action"
