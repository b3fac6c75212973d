-- How departures from an airport run: the last half hour and two hours, and flights overdue at the gate.
-- A row at every instant at which a value changes: a flight enters a window and later leaves it, so windows slide
-- exactly. Delays are whole minutes, which keeps running sums exact.
-- A flight is overdue from 15 minutes after its time until it departs. Nobody says when a cancelled flight was
-- given up: it counts for four hours, like one that has not departed yet.
WITH departed AS (
    SELECT origin, departed_at, dep_delay AS delay, (dep_delay >= 30)::INT AS late
    FROM _movements
    WHERE departed_at IS NOT NULL
),

changes AS (
    SELECT
        origin,
        departed_at AS event_timestamp,
        1 AS flights_30m,
        delay AS delay_30m,
        1 AS flights_2h,
        delay AS delay_2h,
        late AS late_2h,
        0 AS overdue
    FROM departed
    UNION ALL
    SELECT origin, departed_at + INTERVAL 30 MINUTE, -1, -delay, 0, 0, 0, 0
    FROM departed
    UNION ALL
    SELECT origin, departed_at + INTERVAL 2 HOUR, 0, 0, -1, -delay, -late, 0
    FROM departed
    UNION ALL
    SELECT origin, scheduled_departure_at + INTERVAL 15 MINUTE, 0, 0, 0, 0, 0, 1
    FROM _movements
    WHERE departed_at IS NULL OR dep_delay > 15
    UNION ALL
    SELECT origin, scheduled_departure_at + to_minutes(least(coalesce(dep_delay, 240), 240)), 0, 0, 0, 0, 0, -1
    FROM _movements
    WHERE departed_at IS NULL OR dep_delay > 15
),

instants AS (
    SELECT origin, event_timestamp, sum(COLUMNS(* EXCLUDE (origin, event_timestamp)))
    FROM changes
    GROUP BY ALL
),

running AS (
    SELECT
        origin,
        event_timestamp,
        sum(COLUMNS(* EXCLUDE (origin, event_timestamp))) OVER (PARTITION BY origin ORDER BY event_timestamp)
    FROM instants
)

SELECT
    origin,
    event_timestamp,
    (delay_30m / nullif(flights_30m, 0))::FLOAT AS mean_delay_30m,
    (delay_2h / nullif(flights_2h, 0))::FLOAT AS mean_delay_2h,
    (late_2h / nullif(flights_2h, 0))::FLOAT AS share_late_2h,
    flights_2h::BIGINT AS flights_2h,
    overdue::BIGINT AS overdue
FROM running
WHERE event_timestamp <= (SELECT max(scheduled_departure_at) FROM _movements)  -- what the data cover
