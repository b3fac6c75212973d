-- How a carrier's departures from an airport run: the last three hours, and flights overdue at the gate.
-- A row at every instant at which a value changes: a flight enters the window and later leaves it, so the window
-- slides exactly. Delays are whole minutes, which keeps running sums exact.
-- A flight is overdue from 15 minutes after its time until it departs. Nobody says when a cancelled flight was
-- given up: it counts for four hours, like one that has not departed yet.
WITH changes AS (
    SELECT
        carrier,
        origin,
        departed_at AS event_timestamp,
        1 AS flights,
        dep_delay AS delay,
        (dep_delay >= 30)::INT AS late,
        0 AS overdue
    FROM _movements
    WHERE dep_delay IS NOT NULL
    UNION ALL
    SELECT carrier, origin, departed_at + INTERVAL 3 HOUR, -1, -dep_delay, -(dep_delay >= 30)::INT, 0
    FROM _movements
    WHERE dep_delay IS NOT NULL
    UNION ALL
    SELECT carrier, origin, scheduled_departure_at + INTERVAL 15 MINUTE, 0, 0, 0, 1
    FROM _movements
    WHERE departed_at IS NULL OR dep_delay > 15
    UNION ALL
    SELECT carrier, origin, scheduled_departure_at + to_minutes(least(coalesce(dep_delay, 240), 240)), 0, 0, 0, -1
    FROM _movements
    WHERE departed_at IS NULL OR dep_delay > 15
),

instants AS (
    SELECT
        carrier,
        origin,
        event_timestamp,
        sum(flights) AS flights,
        sum(delay) AS delay,
        sum(late) AS late,
        sum(overdue) AS overdue
    FROM changes
    GROUP BY ALL
),

running AS (
    SELECT
        carrier,
        origin,
        event_timestamp,
        sum(flights) OVER past AS flights,
        sum(delay) OVER past AS delay,
        sum(late) OVER past AS late,
        sum(overdue) OVER past AS overdue
    FROM instants
    WINDOW past AS (PARTITION BY carrier, origin ORDER BY event_timestamp)
)

SELECT
    carrier,
    origin,
    event_timestamp,
    (delay / nullif(flights, 0))::FLOAT AS mean_delay_3h,
    (late / nullif(flights, 0))::FLOAT AS share_late_3h,
    flights::BIGINT AS flights_3h,
    overdue::BIGINT AS overdue
FROM running
WHERE event_timestamp <= (SELECT max(scheduled_departure_at) FROM _movements)  -- what the data cover
