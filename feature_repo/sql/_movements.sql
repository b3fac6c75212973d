-- Every scheduled flight with its instants in UTC: the schedule (known beforehand), the departure (known when it
-- happened, null when cancelled) and the arrival (known when it happened, null when diverted or cancelled).
-- A leading underscore: a table for the other transforms, not a feature table.
WITH zones AS (
    -- The airport table lacks Puerto Rico and the Virgin Islands, which keep UTC-4 all year.
    SELECT faa AS dest, tzone AS zone FROM airports WHERE tzone IS NOT NULL
    UNION
    SELECT unnest(['BQN', 'PSE', 'SJU', 'STT']), 'America/Puerto_Rico'
),

departures AS (
    SELECT
        flights.*,
        zone,
        -- `time_hour` is the scheduled hour in UTC, `minute` its minute.
        time_hour + to_minutes(minute) AS scheduled_departure_at,
        scheduled_departure_at + to_minutes(dep_delay) AS departed_at
    FROM flights
    LEFT JOIN zones USING (dest)
),

-- Arrivals are clock times at the destination (HHMM): midnight there, plus the clock.
clocks AS (
    SELECT
        *,
        date_trunc('day', scheduled_departure_at AT TIME ZONE zone)
            + to_minutes(sched_arr_time // 100 * 60 + sched_arr_time % 100) AS scheduled_there,
        date_trunc('day', departed_at AT TIME ZONE zone)
            + to_minutes(arr_time // 100 * 60 + arr_time % 100) AS arrived_there,
        scheduled_there AT TIME ZONE zone AS scheduled_same_day,
        arrived_there AT TIME ZONE zone AS arrived_same_day
    FROM departures
)

-- The arrival is the first instant after the departure at which the clock there shows that time.
SELECT
    * EXCLUDE (scheduled_there, arrived_there, scheduled_same_day, arrived_same_day),
    if(
        scheduled_same_day > scheduled_departure_at,
        scheduled_same_day,
        (scheduled_there + INTERVAL 1 DAY) AT TIME ZONE zone
    ) AS scheduled_arrival_at,
    if(
        arrived_same_day > departed_at,
        arrived_same_day,
        (arrived_there + INTERVAL 1 DAY) AT TIME ZONE zone
    ) AS arrived_at
FROM clocks
