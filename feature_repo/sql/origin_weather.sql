-- The weather at an airport: an hourly observation is known at the end of its hour.
SELECT
    origin,
    time_hour + INTERVAL 1 HOUR AS event_timestamp,
    temp::FLOAT AS temperature,
    dewp::FLOAT AS dew_point,
    humid::FLOAT AS humidity,
    wind_dir::FLOAT AS wind_direction,
    wind_speed::FLOAT AS wind_speed,
    wind_gust::FLOAT AS wind_gust,
    precip::FLOAT AS precipitation,
    pressure::FLOAT AS pressure,
    visib::FLOAT AS visibility
FROM weather
QUALIFY row_number() OVER (PARTITION BY origin, time_hour ORDER BY weather) = 1
