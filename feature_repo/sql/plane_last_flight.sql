-- A plane's previous flight, known once it has landed.
SELECT
    tailnum,
    arrived_at AS event_timestamp,
    max(arr_delay)::FLOAT AS arrival_delay,
    max(dep_delay)::FLOAT AS departure_delay
FROM _movements
WHERE
    arr_delay IS NOT NULL
    AND tailnum IS NOT NULL
    AND arrived_at <= (SELECT max(scheduled_departure_at) FROM _movements)  -- what the data cover
GROUP BY ALL
