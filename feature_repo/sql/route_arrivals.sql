-- How late a carrier arrived at a destination in the last thirty days, each flight known once it has landed.
-- A row at every instant at which a value changes: a flight enters the window and later leaves it, so the window
-- slides exactly. Delays are whole minutes, which keeps running sums exact.
WITH changes AS (
    SELECT
        carrier,
        dest,
        arrived_at AS event_timestamp,
        1 AS flights,
        arr_delay AS delay,
        (arr_delay >= 30)::INT AS late
    FROM _movements
    WHERE arrived_at IS NOT NULL AND arr_delay IS NOT NULL
    UNION ALL
    SELECT carrier, dest, arrived_at + INTERVAL 30 DAY, -1, -arr_delay, -(arr_delay >= 30)::INT
    FROM _movements
    WHERE arrived_at IS NOT NULL AND arr_delay IS NOT NULL
),

instants AS (
    SELECT
        carrier,
        dest,
        event_timestamp,
        sum(flights) AS flights,
        sum(delay) AS delay,
        sum(late) AS late
    FROM changes
    GROUP BY ALL
),

running AS (
    SELECT
        carrier,
        dest,
        event_timestamp,
        sum(flights) OVER past AS flights,
        sum(delay) OVER past AS delay,
        sum(late) OVER past AS late
    FROM instants
    WINDOW past AS (PARTITION BY carrier, dest ORDER BY event_timestamp)
)

SELECT
    carrier,
    dest,
    event_timestamp,
    (delay / nullif(flights, 0))::FLOAT AS mean_delay_30d,
    (late / nullif(flights, 0))::FLOAT AS share_late_30d,
    flights::BIGINT AS flights_30d
FROM running
WHERE event_timestamp <= (SELECT max(scheduled_departure_at) FROM _movements)  -- what the data cover
