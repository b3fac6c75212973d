-- How late flights arrived at a destination in the last six hours, each known once it has landed.
-- A row at every instant at which a value changes: a flight enters the window and later leaves it, so the window
-- slides exactly. Delays are whole minutes, which keeps running sums exact.
WITH changes AS (
    SELECT
        dest,
        arrived_at AS event_timestamp,
        1 AS flights,
        arr_delay AS delay,
        (arr_delay >= 30)::INT AS late
    FROM _movements
    WHERE arrived_at IS NOT NULL AND arr_delay IS NOT NULL
    UNION ALL
    SELECT dest, arrived_at + INTERVAL 6 HOUR, -1, -arr_delay, -(arr_delay >= 30)::INT
    FROM _movements
    WHERE arrived_at IS NOT NULL AND arr_delay IS NOT NULL
),

instants AS (
    SELECT
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
        dest,
        event_timestamp,
        sum(flights) OVER past AS flights,
        sum(delay) OVER past AS delay,
        sum(late) OVER past AS late
    FROM instants
    WINDOW past AS (PARTITION BY dest ORDER BY event_timestamp)
)

SELECT
    dest,
    event_timestamp,
    (delay / nullif(flights, 0))::FLOAT AS mean_delay_6h,
    (late / nullif(flights, 0))::FLOAT AS share_late_6h,
    flights::BIGINT AS flights_6h
FROM running
WHERE event_timestamp <= (SELECT max(scheduled_departure_at) FROM _movements)  -- what the data cover
